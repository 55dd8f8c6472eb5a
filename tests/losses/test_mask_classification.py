import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from scan_lightning.losses.global_counts import StepTargets, mean_over_processes
from scan_lightning.losses.mask_classification import LossConfig, MaskClassificationLoss
from scan_lightning.losses.points import SeededPoints

SMALL = LossConfig(num_points=40)
B, Q, K, SIZE, OUTPUTS = 3, 6, 4, (16, 24), 4
SEEDS = (11, 22, 33)


def batch(counts: Sequence[int] = (2, 0, 3), seed: int = 0, outputs: int = OUTPUTS) -> dict[str, Any]:
    """Predictions of several outputs, and as many targets per image as ``counts`` says."""
    generator = torch.Generator().manual_seed(seed)
    images = len(counts)
    coarse = torch.randn(images, max(*counts, 1), 3, 4, generator=generator)
    masks = F.interpolate(coarse, size=(SIZE[0] * 4, SIZE[1] * 4), mode="bilinear") > 0
    return {
        "class_logits": [torch.randn(images, Q, K + 1, generator=generator) for _ in range(outputs)],
        "mask_logits": [4 * torch.randn(images, Q, *SIZE, generator=generator) for _ in range(outputs)],
        "masks": [masks[image, :count] for image, count in enumerate(counts)],
        "labels": [torch.randperm(K, generator=generator)[:count] for count in counts],
    }


def part_of(values: dict[str, Any], images: list[int]) -> dict[str, Any]:
    return {
        name: [tensor[images] for tensor in tensors] if name.endswith("logits") else [tensors[i] for i in images]
        for name, tensors in values.items()
    }


class DrawnPoints:
    """Points from one stream, in the order in which transformers asks for them."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def matching(self, output: int, image: int, count: int) -> Tensor:
        return torch.rand(1, count, 2, generator=self.generator)[0]

    def losses(
        self, output: int, masks_per_image: Sequence[int], oversampled: int, plain: int
    ) -> tuple[Tensor, Tensor]:
        total = sum(masks_per_image)
        first = torch.rand(total, oversampled, 2, generator=self.generator)
        return first, torch.rand(total, plain, 2, generator=self.generator)


@pytest.mark.parametrize("supervise_last", [False, True])
@pytest.mark.parametrize("counts", [(2, 0, 3), (1, 4, 2), (4,)])
def test_loss_equals_transformers_at_the_same_points(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], supervise_last: bool
) -> None:
    values = batch(counts)
    config = replace(SMALL, supervise_last_auxiliary=supervise_last)
    total, named = MaskClassificationLoss(config)(**values, points=DrawnPoints(5))

    library = Mask2FormerConfig(
        num_labels=K,
        train_num_points=config.num_points,
        class_weight=config.class_weight,
        mask_weight=config.mask_weight,
        dice_weight=config.dice_weight,
        no_object_weight=config.no_object_weight,
        oversample_ratio=config.oversample_ratio,
        importance_sample_ratio=config.importance_ratio,
    )
    stream, rand = torch.Generator().manual_seed(5), torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, device=None: rand(*size, generator=stream))
    counted = OUTPUTS - 1 if supervise_last else OUTPUTS - 2
    theirs = Mask2FormerLoss(library, weight_dict={})(
        values["mask_logits"][-1],
        values["class_logits"][-1],
        [mask.float() for mask in values["masks"]],
        values["labels"],
        [
            {"masks_queries_logits": values["mask_logits"][i], "class_queries_logits": values["class_logits"][i]}
            for i in range(counted)
        ],
    )
    renamed = {name.replace("cross_entropy", "ce"): loss for name, loss in theirs.items()}
    assert named.keys() == renamed.keys()
    for name, loss in named.items():
        torch.testing.assert_close(loss, renamed[name], rtol=1e-5, atol=1e-6, msg=name)
    weights = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    expected = sum(loss * weights["_".join(name.split("_")[:2])] for name, loss in renamed.items())
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


class CentralPoints(SeededPoints):
    """Points away from the border, around which sampling sees zeros."""

    def losses(
        self, output: int, masks_per_image: Sequence[int], oversampled: int, plain: int
    ) -> tuple[Tensor, Tensor]:
        first, second = super().losses(output, masks_per_image, oversampled, plain)
        return 0.3 + 0.4 * first, 0.3 + 0.4 * second


def test_losses_of_one_proposal_by_hand() -> None:
    """One proposal, one target that covers everything: each of 40 points sees logit 2 and truth 1."""
    _, named = MaskClassificationLoss(SMALL)(
        [torch.tensor([[[1.0, 0.0, -1.0]]])],
        [torch.full((1, 1, 8, 8), 2.0)],
        [torch.ones(1, 32, 32, dtype=torch.bool)],
        [torch.tensor([1])],
        CentralPoints([0]),
    )
    share = 1 / (1 + math.exp(-2))
    assert named["loss_ce"].item() == pytest.approx(math.log(math.e + 1 + 1 / math.e), abs=1e-5)
    assert named["loss_mask"].item() == pytest.approx(-math.log(share), abs=1e-5)
    assert named["loss_dice"].item() == pytest.approx(1 - (80 * share + 1) / (40 * share + 41), abs=1e-5)


def test_class_loss_weighs_no_object() -> None:
    """Two proposals, one matched: a mean weighted with 1 and 0.1."""
    class_logits = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    masks = torch.stack([torch.full((8, 8), 9.0), torch.full((8, 8), -9.0)])[None]
    loss = MaskClassificationLoss(SMALL)
    named = loss([class_logits], [masks], [torch.ones(1, 32, 32)], [torch.tensor([0])], SeededPoints([0]))[1]
    matched = -class_logits[0, 0].log_softmax(0)[0]
    void = -class_logits[0, 1].log_softmax(0)[2]
    torch.testing.assert_close(named["loss_ce"], (matched + 0.1 * void) / 1.1)


def test_match_finds_the_permutation() -> None:
    """Proposals that are the targets in another order are matched to them."""
    values = batch((4,))
    order = torch.tensor([2, 0, 3, 1])
    targets = values["masks"][0].float()
    small = F.interpolate(targets[None], size=SIZE, mode="area")[0]
    mask_logits = torch.full((1, Q, *SIZE), -10.0)
    mask_logits[0, 1:5] = 20 * small[order] - 10
    loss = MaskClassificationLoss(SMALL)
    ((queries, indices),) = loss.match(
        torch.zeros(1, Q, K + 1), mask_logits, [targets], values["labels"], SeededPoints([0]), output=0
    )
    assert queries.tolist() == [1, 2, 3, 4]
    assert indices.tolist() == order.tolist()
    assert queries.dtype == indices.dtype == torch.int64


def test_cost_equals_slow_loop() -> None:
    values = batch((3,))
    loss = MaskClassificationLoss(SMALL)
    coordinates = torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    class_logits, mask_logits = values["class_logits"][0][0], values["mask_logits"][0][0]
    found = loss.cost(class_logits, mask_logits, values["masks"][0].float(), values["labels"][0], coordinates)
    grid = 2 * coordinates[None, :, None] - 1
    for query in range(Q):
        predicted = F.grid_sample(mask_logits[None, query : query + 1], grid, align_corners=False).flatten()
        for target in range(3):
            mask = values["masks"][0][None, target : target + 1].float()
            truth = F.grid_sample(mask, grid, align_corners=False).flatten()
            bce = F.binary_cross_entropy_with_logits(predicted, truth)
            share = predicted.sigmoid()
            dice = 1 - (2 * (share * truth).sum() + 1) / (share.sum() + truth.sum() + 1)
            probability = class_logits[query].softmax(0)[values["labels"][0][target]]
            expected = 5 * bce - 2 * probability + 5 * dice
            torch.testing.assert_close(found[query, target], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_match_survives_a_broken_proposal(bad: float) -> None:
    values = batch((4,))
    values["mask_logits"][0][0, 2] = bad
    loss = MaskClassificationLoss(SMALL)
    ((queries, _),) = loss.match(
        values["class_logits"][0],
        values["mask_logits"][0],
        [values["masks"][0].float()],
        values["labels"],
        SeededPoints([0]),
        output=0,
    )
    assert 2 not in queries.tolist()
    assert len(queries) == 4


def test_more_targets_than_queries() -> None:
    values = batch((4,))
    few = {name: [x[:, :2] for x in part] if name.endswith("logits") else part for name, part in values.items()}
    total, named = MaskClassificationLoss(SMALL)(**few, points=SeededPoints([0]))
    assert torch.isfinite(total)
    assert set(named) >= {"loss_ce", "loss_mask", "loss_dice"}


def test_no_targets_at_all_trains_no_object_only() -> None:
    values = batch((0, 0))
    for tensor in (*values["class_logits"], *values["mask_logits"]):
        tensor.requires_grad_()
    total, named = MaskClassificationLoss(SMALL)(**values, points=SeededPoints([1, 2]))
    assert named["loss_mask"] == named["loss_dice"] == 0
    expected = -values["class_logits"][-1].log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(named["loss_ce"], expected.detach())
    total.backward()
    assert values["class_logits"][-1].grad.any()
    assert not values["mask_logits"][-1].grad.any()


def loss_and_gradients(
    values: dict[str, Any], images: list[int], step: StepTargets | None
) -> tuple[Tensor, list[Tensor]]:
    """Loss of some images, and the gradients of their predictions."""
    part = part_of(values, images)
    leaves = [tensor.requires_grad_() for kind in ("class_logits", "mask_logits") for tensor in part[kind]]
    points = SeededPoints([SEEDS[image] for image in images])
    total, _ = MaskClassificationLoss(SMALL)(**part, points=points, step=step)
    return total, list(torch.autograd.grad(total, leaves, allow_unused=True))


@pytest.mark.parametrize("counts", [(2, 0, 4), (0, 1, 0), (1, 4, 3)])
@pytest.mark.parametrize("passes", [2, 4])
def test_passes_of_one_step_add_up_to_the_whole_batch(counts: tuple[int, ...], passes: int) -> None:
    """The last step of an epoch may have fewer passes than the Trainer divides by."""
    values = batch(counts)
    values = values | {name: [x[:, :3] for x in values[name]] for name in ("class_logits", "mask_logits")}
    whole, expected = loss_and_gradients(values, [0, 1, 2], None)
    step = StepTargets(counts=counts, passes=passes)
    parts = [loss_and_gradients(values, images, step) for images in ([0], [1, 2])]
    torch.testing.assert_close(sum(loss / passes for loss, _ in parts), whole, rtol=1e-5, atol=1e-6)
    for whole_gradient, *pieces in zip(expected, *(found for _, found in parts), strict=True):
        if whole_gradient is not None:
            torch.testing.assert_close(torch.cat(pieces) / passes, whole_gradient, rtol=1e-5, atol=1e-7)
    alone = [loss_and_gradients(values, images, None)[0] / 2 for images in ([0], [1, 2])]
    assert abs(sum(alone) - whole) > 1e-2, "counts are too even to prove anything"


@pytest.mark.parametrize("supervise_last", [False, True])
def test_gradients_reach_the_supervised_outputs(supervise_last: bool) -> None:
    """The last auxiliary output is left out unless asked for, as in the released weight table."""
    values = batch()
    for tensor in (*values["class_logits"], *values["mask_logits"]):
        tensor.requires_grad_()
    total, named = MaskClassificationLoss(replace(SMALL, supervise_last_auxiliary=supervise_last))(
        **values, points=SeededPoints(SEEDS)
    )
    total.backward()
    for kind in ("class_logits", "mask_logits"):
        reached = [tensor.grad is not None and bool(tensor.grad.any()) for tensor in values[kind]]
        assert reached == [True, True, supervise_last, True]
    assert len(named) == 3 * (4 if supervise_last else 3)
    assert not any(loss.requires_grad for loss in named.values())


@pytest.mark.parametrize("outputs", [1, 2])
def test_few_outputs(outputs: int) -> None:
    named = MaskClassificationLoss(SMALL)(**batch(outputs=outputs), points=SeededPoints(SEEDS))[1]
    assert set(named) == {"loss_ce", "loss_mask", "loss_dice"}


def test_loss_is_float32_under_autocast() -> None:
    values = batch()
    expected = MaskClassificationLoss(SMALL)(**values, points=SeededPoints(SEEDS))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = MaskClassificationLoss(SMALL)(**values, points=SeededPoints(SEEDS))[0]
    assert torch.equal(found, expected)
    low = {name: [x.bfloat16() for x in part] if name.endswith("logits") else part for name, part in values.items()}
    assert MaskClassificationLoss(SMALL)(**low, points=SeededPoints(SEEDS))[0].dtype == torch.float32


def test_uncertain_points_come_first_and_in_order() -> None:
    loss = MaskClassificationLoss(SMALL)
    logits = 4 * torch.randn(3, 1, *SIZE)
    points = SeededPoints([1, 2])
    chosen = loss.uncertain_points(logits, [1, 2], points, output=0)
    candidates, plain = points.losses(0, [1, 2], 120, 10)
    assert chosen.shape == (3, 40, 2)
    assert torch.equal(chosen[:, 30:], plain)
    for mask in range(3):
        sampled = F.grid_sample(logits[mask : mask + 1], 2 * candidates[mask][None, :, None] - 1, align_corners=False)
        order = sampled.flatten().abs().argsort()[:30]
        assert torch.equal(chosen[mask, :30], candidates[mask][order])


@pytest.mark.parametrize(("importance", "uncertain"), [(0.0, 0), (1.0, 40), (0.5, 20)])
def test_importance_ratio(importance: float, uncertain: int) -> None:
    loss = MaskClassificationLoss(replace(SMALL, importance_ratio=importance))
    points = SeededPoints([3])
    chosen = loss.uncertain_points(torch.randn(1, 1, *SIZE), [1], points, output=0)
    assert chosen.shape == (1, 40, 2)
    plain = points.losses(0, [1], 120, 40 - uncertain)[1]
    assert torch.equal(chosen[:, uncertain:], plain)


def test_points_do_not_depend_on_the_batch() -> None:
    whole = SeededPoints(SEEDS)
    first, second = whole.losses(1, [2, 1, 3], 12, 4)
    for image, (start, count) in enumerate(((0, 2), (2, 1), (3, 3))):
        alone = SeededPoints([SEEDS[image]])
        assert torch.equal(alone.matching(1, 0, 9), whole.matching(1, image, 9))
        oversampled, plain = alone.losses(1, [count], 12, 4)
        assert torch.equal(oversampled, first[start : start + count])
        assert torch.equal(plain, second[start : start + count])
    assert (first.shape, second.shape) == ((6, 12, 2), (6, 4, 2))


def test_points_differ_by_image_output_and_use() -> None:
    points = SeededPoints([1, 2])
    draws = [points.matching(output, image, 5) for output in (0, 1) for image in (0, 1)]
    draws += [points.losses(0, [1, 0], 5, 0)[0][0], points.losses(1, [0, 1], 5, 0)[0][0]]
    assert len({draw.numpy().tobytes() for draw in draws}) == 6
    assert all((draw >= 0).all() and (draw < 1).all() for draw in draws)


def test_points_take_the_largest_seeds() -> None:
    assert SeededPoints([2**63 - 1]).matching(10, 0, 3).shape == (3, 2)


def test_points_move_no_global_state() -> None:
    before = torch.get_rng_state()
    MaskClassificationLoss(SMALL)(**batch(), points=SeededPoints(SEEDS))
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_of_a_batch_is_the_weighted_mean_of_its_images() -> None:
    """With equal numbers of targets the loss of a batch is the mean of the losses of its images alone."""
    values = batch((2, 2, 2))
    loss = MaskClassificationLoss(SMALL)
    together = loss(**values, points=SeededPoints(SEEDS))[0]
    alone = [loss(**part_of(values, [i]), points=SeededPoints(SEEDS[i : i + 1]))[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-4, atol=1e-4)


def gradients(values: dict[str, Any], seeds: Sequence[int]) -> list[Tensor]:
    """Gradients of the loss with respect to a common weight, in front of every prediction."""
    weight = torch.ones(2, requires_grad=True)
    scaled = values | {
        "class_logits": [weight[0] * tensor for tensor in values["class_logits"]],
        "mask_logits": [weight[1] * tensor for tensor in values["mask_logits"]],
    }
    total, _ = MaskClassificationLoss(SMALL)(**scaled, points=SeededPoints(seeds))
    total.backward()
    assert weight.grad is not None
    return [total.detach(), weight.grad]


SHARDS = ([0], [1, 2])
COUNTS = ((2, 3, 1), (3, 0, 0))


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    seeds = [SEEDS[i] for i in SHARDS[rank]]
    found = {counts: gradients(part_of(batch(counts), SHARDS[rank]), seeds) for counts in COUNTS}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_average_to_the_gradient_of_one(tmp_path: Path) -> None:
    """One image here, two there. DDP averages gradients, so their mean must be that of one process with all three."""
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for counts in COUNTS:
        whole = gradients(batch(counts), SEEDS)
        for one, first, second in zip(whole, parts[0][counts], parts[1][counts], strict=True):
            torch.testing.assert_close((first + second) / 2, one, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(first, second)


def test_mean_over_processes_of_one_is_the_value() -> None:
    assert mean_over_processes(torch.tensor(3.0)) == 3
