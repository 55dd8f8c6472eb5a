"""What a network takes: counted by hand, against the real network, and without allocating anything."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scan_lightning.models.clip import ClipConfig
from scan_lightning.models.clip_architecture import build_untrained, clip_architecture
from scan_lightning.models.footprint import (
    WHOLE_IMAGE,
    Footprint,
    PartSize,
    build_hollow,
    count_parts,
    measure_footprint,
)
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.models.text import TextFeatures

SIDE = 64
WORDS = 6
DIM = 32


@pytest.fixture(scope="module")
def footprint(scan_config: ScanConfig) -> Footprint:
    return measure_footprint(scan_config, batch=2, side=SIDE, words=WORDS)


def run(scan: Scan, batch: int) -> list[Tensor]:
    """The training forward pass of the real network, on grey images."""
    images = torch.full((batch, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    text = TextFeatures(torch.eye(WORDS, DIM), torch.arange(WORDS), WORDS)
    output = scan.train()(images, [(SIDE, SIDE)] * batch, text)
    return [*output.class_logits, *output.mask_logits]


def test_parts_are_all_parameters_of_the_network(footprint: Footprint, make_scan: Callable[..., Scan]) -> None:
    scan = make_scan()
    assert footprint.trainable == sum(p.numel() for p in scan.parameters() if p.requires_grad)
    assert footprint.frozen == sum(p.numel() for p in scan.parameters() if not p.requires_grad)
    assert footprint.parts == count_parts(scan)
    by_name = {part.name: part for part in footprint.parts}
    assert by_name["embedding head"].trainable == 32 * 24 + 24 + 24 * DIM + DIM
    assert by_name["non-object embedding"] == PartSize(name="non-object embedding", trainable=DIM, frozen=0)
    assert by_name["CLIP, visual tower"].trainable == 0


def test_parts_name_a_tuned_tower(scan_config: ScanConfig) -> None:
    tuned = replace(scan_config, clip=replace(scan_config.clip, shifted_weights="not/there.safetensors"))
    by_name = {part.name: part.frozen for part in count_parts(build_hollow(tuned))}
    assert by_name["CLIP, tuned visual tower"] == by_name["CLIP, visual tower"] > 0


def test_flops_of_clip_by_hand(footprint: Footprint) -> None:
    width, patches, layers = 48, 16, 2
    tokens = patches + 1
    block = 2 * tokens * width * (3 * width + width + 2 * 4 * width) + 2 * 2 * tokens * tokens * width
    assert footprint.flops[WHOLE_IMAGE] == 2 * patches * (3 * 8 * 8) * width + layers * block + 2 * width * DIM


def test_flops_of_head_and_words_by_hand(footprint: Footprint) -> None:
    outputs, queries = 3, 5
    assert footprint.flops["embedding head"] == outputs * 2 * queries * (32 * 24 + 24 * DIM)
    assert footprint.flops["comparison with words"] == outputs * 2 * queries * DIM * (WORDS + 1)


def test_flops_are_those_of_the_real_forward_pass(footprint: Footprint, make_scan: Callable[..., Scan]) -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            run(make_scan(), 1)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert sum(footprint.flops.values()) == counter.get_total_flops()


def test_flops_of_a_training_step_are_near_the_real_ones(footprint: Footprint, make_scan: Callable[..., Scan]) -> None:
    with FlopCounterMode(display=False) as counter:
        sum(x.square().mean() for x in run(make_scan(), 1)).backward()  # type: ignore[union-attr]
    assert counter.get_total_flops() == pytest.approx(footprint.training_flops, rel=0.1)
    forward = sum(footprint.flops.values())
    assert footprint.training_flops == 3 * forward - 2 * footprint.flops[WHOLE_IMAGE]


def test_checkpointing_runs_two_stages_again(footprint: Footprint, scan_config: ScanConfig) -> None:
    again = measure_footprint(scan_config, batch=2, side=SIDE, words=WORDS, checkpointing=True)
    assert again.flops == footprint.flops
    more = footprint.flops["backbone"] + footprint.flops["pixel decoder"]
    assert again.training_flops == footprint.training_flops + more


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps_of_the_real_network(
    scan_config: ScanConfig, make_scan: Callable[..., Scan], checkpointing: bool
) -> None:
    footprint = measure_footprint(scan_config, batch=2, side=SIDE, words=WORDS, checkpointing=checkpointing)
    scan = make_scan()
    if checkpointing:
        scan.segmenter.checkpoint_activations()
    own = {tensor.data_ptr() for tensor in [*scan.parameters(), *scan.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = run(scan, 2)
    assert held
    real = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    assert footprint.activation_bytes == pytest.approx(real, rel=0.02)
    assert real > (5e5 if checkpointing else 2e6)


def test_memory_by_what_it_holds(footprint: Footprint) -> None:
    assert footprint.memory == {
        "weights": 4 * (footprint.trainable + footprint.frozen),
        "gradients": 4 * footprint.trainable,
        "optimiser states": 8 * footprint.trainable,
        "activations": footprint.activation_bytes,
    }


def test_batch_and_precision_change_activations_not_operations(footprint: Footprint, scan_config: ScanConfig) -> None:
    single = measure_footprint(scan_config, batch=1, side=SIDE, words=WORDS)
    assert single.flops == footprint.flops
    assert 1.8 < footprint.activation_bytes / single.activation_bytes < 2.1
    half = measure_footprint(scan_config, batch=2, side=SIDE, words=WORDS, autocast=torch.bfloat16)
    assert half.flops == footprint.flops
    assert half.activation_bytes < 0.97 * footprint.activation_bytes


def test_network_without_sim_has_no_operations_in_it(scan_config: ScanConfig) -> None:
    found = measure_footprint(replace(scan_config, semantic_integration=None), batch=1, side=SIDE, words=WORDS)
    assert found.flops["SIM"] == 0
    assert "SIM" not in {part.name for part in found.parts}


def test_hollow_network_reads_and_allocates_nothing() -> None:
    """The paper's network, more than a gigabyte, with weights that are nowhere."""
    clip = ClipConfig(model="ViT-L-14", weights="not/there.pt")
    config = ScanConfig(clip=clip)
    config = replace(config, segmenter=replace(config.segmenter, weights="not/there.pth"))
    scan = build_hollow(config)
    held = [tensor for tensor in [*scan.parameters(), *scan.buffers()] if tensor.device.type != "meta"]
    assert sum(tensor.numel() for tensor in held) < 1000  # a library makes one embedding of 3 levels on the CPU
    assert scan.clip.grid == 16
    assert sum(parameter.numel() for parameter in scan.parameters()) > 400e6


def test_measuring_leaves_the_fast_path_of_attention_as_it_was(scan_config: ScanConfig) -> None:
    measure_footprint(scan_config, batch=1, side=SIDE, words=1)
    assert torch.backends.mha.get_fastpath_enabled()


def test_untrained_clip_of_a_folder_without_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected open_clip_config\.json in"):
        clip_architecture(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"model_cfg": 3}'])
def test_untrained_clip_of_a_wrong_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match="open_clip"):
        clip_architecture(str(tmp_path))


def test_untrained_clip_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'ViT-Z-3'"):
        build_untrained(ClipConfig(model="ViT-Z-3"))
