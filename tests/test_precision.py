"""Mixed precision: what is delicate sees float32, training and test run; and the switches that save memory or time."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stripes import StripesModule, fit, states_equal, trainer
from torch import Tensor, nn

from scan_lightning.losses import mask_classification
from scan_lightning.losses.mask_classification import MaskClassificationLoss
from scan_lightning.models.scan import ScanConfig
from scan_lightning.models.segmenter import MaskSegmenter, SegmenterConfig
from scan_lightning.module import ScanModule

HALF = (torch.bfloat16, torch.float16)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[torch.dtype]]:
    """Types of the floating point tensors that the delicate functions get."""
    types: dict[str, set[torch.dtype]] = defaultdict(set)

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()]
            types[name].update(x.dtype for x in given)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    watch(torch.fft, "fft2")
    watch(MaskClassificationLoss, "cost")
    for name in ("pair_wise_dice_loss", "pair_wise_sigmoid_cross_entropy_loss", "dice_loss"):
        watch(mask_classification, name)
    watch(mask_classification, "sigmoid_cross_entropy_loss")
    watch(torch.nn.functional, "cross_entropy")
    return types


DELICATE = {
    "fft2",
    "cost",
    "pair_wise_dice_loss",
    "pair_wise_sigmoid_cross_entropy_loss",
    "dice_loss",
    "sigmoid_cross_entropy_loss",
    "cross_entropy",
}


def test_bfloat16_trains_with_float32_where_it_is_delicate(
    make_module: Callable[..., ScanModule], tmp_path: Path, seen: dict[str, set[torch.dtype]]
) -> None:
    module, outputs = make_module(), set[torch.dtype]()
    module.network.segmenter.embedding_head.register_forward_hook(lambda _m, _i, output: outputs.add(output.dtype))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    losses = fit(module, tmp_path, precision="bf16-mixed")
    assert outputs == {torch.bfloat16}, "autocast is not at work"
    assert set(seen) == DELICATE
    assert all(types == {torch.float32} for types in seen.values()), dict(seen)
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert {value.dtype for value in module.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert not states_equal(module.state_dict(), before)
    (scores,) = trainer(tmp_path, precision="bf16-mixed").test(module, datamodule=StripesModule(size=3), verbose=False)
    assert 0 <= scores["test/miou_any"] <= 1


def test_bfloat16_loss_is_near_that_of_float32(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    exact = fit(make_module(), tmp_path, max_steps=1)
    rounded = fit(make_module(), tmp_path, max_steps=1, precision="bf16-mixed")
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


def test_float16_gives_finite_gradients_with_float32_where_it_is_delicate(
    make_module: Callable[..., ScanModule], scan_config: ScanConfig, seen: dict[str, set[torch.dtype]]
) -> None:
    """On a CPU without the Trainer, which takes bfloat16 there."""
    segmenter = replace(scan_config.segmenter, conv_dim=64, decoder_layers=3)  # one for each scale: all are trained
    module, data = make_module(network={"segmenter": segmenter}), StripesModule()
    data.setup("fit")
    module.training_vocabulary = data.training_vocabulary
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    outputs = set[torch.dtype]()
    module.network.segmenter.embedding_head.register_forward_hook(lambda _m, _i, output: outputs.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.float16):
        loss = module.train().training_step(next(iter(data.train_dataloader())), 0)
    loss.backward()
    assert outputs == {torch.float16}
    assert set(seen) == DELICATE
    assert all(types == {torch.float32} for types in seen.values()), dict(seen)
    trained = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.isfinite().all()] == []


@pytest.mark.gpu
def test_float16_trains_on_a_gpu(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    losses = fit(make_module(), tmp_path, precision="16-mixed", accelerator="gpu")
    assert len(losses) == 6
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_other_precisions_are_refused(
    make_module: Callable[..., ScanModule], tmp_path: Path, precision: str, command: str
) -> None:
    runner = trainer(tmp_path, precision=precision)
    with pytest.raises(
        ValueError, match=f"precision: expected one of 32-true, bf16-mixed, 16-mixed, .*, got {precision}"
    ):
        getattr(runner, command)(make_module(), datamodule=StripesModule())


@pytest.fixture
def segmenter(segmenter_config: SegmenterConfig) -> MaskSegmenter:
    """A segmenter in training mode, with stochastic depth."""
    torch.manual_seed(0)
    config = replace(segmenter_config, drop_path_rate=0.3, conv_dim=64)
    return MaskSegmenter(config=config, embedding_dim=16).train()


def train_step(segmenter: MaskSegmenter, forward: AbstractContextManager[Any]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step whose forward pass runs within a context."""
    torch.manual_seed(1)  # of stochastic depth
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    segmenter.zero_grad()
    with forward:
        output = segmenter(pixels)
        loss = sum(x.square().mean() for x in (*output.proposal_embeddings, *output.mask_logits))
    loss.backward()  # type: ignore[union-attr]
    return loss.item(), {  # type: ignore[union-attr]
        name: parameter.grad.clone() for name, parameter in segmenter.named_parameters() if parameter.grad is not None
    }


def train_once(segmenter: MaskSegmenter) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass keeps for the backward pass, parameters left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in segmenter.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    loss, gradients = train_step(segmenter, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x))
    return loss, gradients, sum(kept.values())


def test_checkpointed_activations_give_equal_gradients_and_keep_less(segmenter: MaskSegmenter) -> None:
    loss, gradients, kept = train_once(segmenter)
    segmenter.checkpoint_activations()
    again, found, less = train_once(segmenter)
    assert again == loss
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    assert less < 0.6 * kept


def test_gradient_checkpointing_of_a_module_trains_alike(
    make_module: Callable[..., ScanModule], tmp_path: Path
) -> None:
    expected = fit(make_module(), tmp_path, max_steps=2)
    assert fit(make_module(gradient_checkpointing=True), tmp_path, max_steps=2) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    """Forget what other tests compiled."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def _traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch.compile trace modules and run the traces as they are: generating code takes minutes on a CPU."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))


PARTS = pytest.mark.parametrize("part", ["backbone", "pixel_decoder"])


@pytest.mark.slow
@PARTS
@pytest.mark.usefixtures("_fresh_compiler")
def test_code_of_a_compiled_part_gives_equal_gradients(
    segmenter_config: SegmenterConfig, part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block per stage and one image size: 65 (pixel decoder) and 100 s (backbone) of one core, no code cached."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    config = replace(segmenter_config, depths=(1, 1, 1, 1), conv_dim=64)
    segmenter = MaskSegmenter(config=config, embedding_dim=16).train()
    names = list(segmenter.state_dict())
    loss, gradients = train_step(segmenter, nullcontext())
    segmenter.compile_parts((part,))
    again, found = train_step(segmenter, nullcontext())
    assert list(tmp_path.rglob("*.so")), "nothing was compiled"
    assert again == pytest.approx(loss, rel=1e-4)
    assert found.keys() == gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)
    assert list(segmenter.state_dict()) == names


@pytest.mark.slow
@PARTS
@pytest.mark.usefixtures("_fresh_compiler", "_traced_only")
def test_compiled_part_takes_images_of_another_size(segmenter: MaskSegmenter, part: Any) -> None:
    segmenter.eval()
    pixels = [torch.randn(1, 3, 64, width, generator=torch.Generator().manual_seed(2)) for width in (64, 96)]
    with torch.no_grad():
        expected = [segmenter(x) for x in pixels]
        segmenter.compile_parts((part,))
        found = [segmenter(x) for x in pixels]
    for one, other in zip(expected, found, strict=True):
        for name in ("proposal_embeddings", "mask_logits"):
            for value, compiled in zip(getattr(one, name), getattr(other, name), strict=True):
                torch.testing.assert_close(compiled, value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler", "_traced_only")
def test_compiled_module_trains_alike(make_module: Callable[..., ScanModule], tmp_path: Path) -> None:
    expected = fit(make_module(), tmp_path, max_steps=2)
    module = make_module(compiled=("backbone", "pixel_decoder"))
    level: nn.Module = module.network.segmenter.model.pixel_level_module
    assert all(part._compiled_call_impl is not None for part in level.children())
    assert fit(module, tmp_path, max_steps=2) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("parts", [("decoder",), ("backbone", "backbone")])
def test_unknown_compiled_part_raises(segmenter: MaskSegmenter, parts: Any) -> None:
    with pytest.raises(ValueError, match="compiled: expected distinct parts out of backbone, pixel_decoder, got"):
        segmenter.compile_parts(parts)
