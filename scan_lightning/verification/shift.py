"""Compare Contextual Shift: masks, boxes, crops, drawn tokens and CLIP's opinion of every region."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from scan_lightning.verification.ledger import Ledger, Stage
from scan_lightning.verification.reference import ImageInfo, Reference
from scan_lightning.verification.regions import (
    NEAR,
    Regions,
    class_tokens,
    compare_masks,
    cut,
    drawn_again,
    mask_probabilities,
    shifted_embeddings,
    wrong_selections,
)
from scan_lightning.verification.subject import Subject

SEED_OF_MAIN = r"random\.seed\((\d+) \+ image index\)` right before the forward \(`main`\)"
SEED_OF_RUNS = r"random\.seed\((\d+) \+ image index\)` before each `run"
"""Where a folder's README tells the seeds of Python's generator, which nothing else does."""

INJECTED = "recorded masks and selections as input"

STAGES = (
    Stage(name="shift/mask_prob"),
    Stage(name="shift/masks", tolerance=0, measure="count", remark=f"pixels within {NEAR:g} of the threshold excepted"),
    Stage(name="shift/valid", tolerance=0, measure="count", remark="recorded masks as input"),
    Stage(name="shift/boxes", tolerance=0, measure="count", remark="recorded masks as input"),
    Stage(name="shift/crops", remark="recorded masks as input"),
    Stage(name="shift/region_masks", tolerance=0, measure="count", remark="recorded masks as input"),
    Stage(name="shift/token_mask", tolerance=0, measure="count", remark="recorded masks as input"),
    Stage(
        name="shift/selection",
        tolerance=0,
        measure="count",
        remark="recorded selections: as many tokens as our own draw takes, all of them background",
    ),
    Stage(
        name="shift/seeded", tolerance=0, measure="count", remark="recorded selections drawn again by Python's random"
    ),
    Stage(name="shift/clip_out", remark=INJECTED),
    Stage(name="shift/sim_logits", remark=INJECTED),
    Stage(name="shift/classify_regions", remark="probabilities of the runs without chance (ratio 0 or 1)"),
)


def check(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare Contextual Shift on every image.

    Args:
        reference: The folder.
        subject: The network.
        ledger: Where results go.
    """
    for image in reference.images:
        view, pixels = subject.view(image), subject.pixels(image)
        if view is None or pixels is None:
            continue
        masks = mask_probabilities(view, image)
        _check_probabilities(reference, ledger, masks, image.name)
        name = f"{image.name}/shift/mask_bits"
        recorded = reference.bits(name, image.size[1])
        if recorded is None:
            continue
        compare_masks(ledger, "shift/masks", name, masks, recorded, subject.settings.mask_threshold)
        regions = cut(subject, pixels, recorded)
        _check_regions(reference, ledger, regions, image.name)
        runs = {"main": {"replace_ratio": subject.settings.replace_ratio}} | reference.config.get("shift_runs", {})
        for run, options in runs.items():
            layers = tuple(sorted(options.get("replace_layer", subject.settings.replace_layers)))
            _check_run(reference, subject, ledger, image, regions, run, options["replace_ratio"], layers)


def _check_probabilities(reference: Reference, ledger: Ledger, masks: Tensor, image: str) -> None:
    """Compare the mask probabilities of the queries that the manifest names."""
    found = reference.strided(f"{image}/shift/mask_prob", "q")
    if found is None:
        return
    recorded, _, name = found
    queries = reference.described(name, r"of queries ([\d, and]+)")
    if queries is None:
        ledger.remark("shift/mask_prob", "the manifest does not name the queries")
        return
    rows = [int(query) for query in queries[0].replace("and", " ").replace(",", " ").split()]
    ledger.compare("shift/mask_prob", name, masks[rows], recorded)


def _check_regions(reference: Reference, ledger: Ledger, regions: Regions, image: str) -> None:
    """Compare boxes, crops, region masks and token masks."""
    prefix = f"{image}/shift/"
    for name, ours in (("valid", regions.valid), ("boxes", regions.boxes), ("token_mask", regions.foreground)):
        ledger.compare(f"shift/{name}", prefix + name, ours, reference.get(prefix + name))
    side = regions.masks.shape[-1]
    if (found := reference.strided(prefix + "crops", "s")) is not None:
        recorded, step, name = found
        ledger.compare("shift/crops", name, regions.crops[:, :, ::step, ::step], recorded)
    means = regions.crops.mean((2, 3))
    ledger.compare("shift/crops", prefix + "crops_mean", means, reference.get(prefix + "crops_mean"))
    if (found := reference.strided(prefix + "region_mask", "s", "_bits")) is not None:
        _, step, name = found
        ours = regions.masks[:, ::step, ::step]
        ledger.compare("shift/region_masks", name, ours, reference.bits(name, ours.shape[-1]))
    chosen = reference.get(prefix + "full_crop_ids")
    if chosen is not None:
        full = chosen.long()
        ledger.compare("shift/crops", prefix + "crops_full", regions.crops[full], reference.get(prefix + "crops_full"))
        name = prefix + "region_mask_full_bits"
        ledger.compare("shift/region_masks", name, regions.masks[full], reference.bits(name, side))


def _check_run(
    reference: Reference,
    subject: Subject,
    ledger: Ledger,
    image: ImageInfo,
    regions: Regions,
    run: str,
    ratio: float,
    layers: tuple[int, ...],
) -> None:
    """Compare one run: selections, embeddings and logits."""
    prefix = f"{image.name}/shift/{run}/"
    view = subject.view(image)
    if view is None or prefix + "clip_out" not in reference.tensors:
        return
    selected = reference.bits(prefix + "selected_bits", regions.foreground.shape[1])
    if selected is None and ratio == 0:
        selected = torch.zeros(len(layers), *regions.foreground.shape, dtype=torch.bool)
    if selected is None:
        ledger.remark("shift/clip_out", f"{run}: selections absent")
        return
    wrong = wrong_selections(selected, regions.foreground, ratio=ratio)
    ledger.note_error("shift/selection", prefix + "selected_bits", wrong)
    seed = reference.seed(SEED_OF_MAIN if run == "main" else SEED_OF_RUNS)
    if seed is not None:
        again = drawn_again(
            regions.foreground,
            ratio=ratio,
            layers=len(layers),
            generator=random.Random(seed + image.index),  # noqa: S311
        )
        ledger.compare("shift/seeded", prefix + "selected_bits", again, selected)
    tokens = [layer[0] for layer in view.output.image_tokens]
    chosen = dict(zip(layers, selected, strict=True))
    embeddings = shifted_embeddings(subject, regions.crops, chosen, class_tokens(tokens, layers))
    ledger.compare("shift/clip_out", prefix + "clip_out", embeddings, reference.get(prefix + "clip_out"))
    with torch.no_grad():
        logits = subject.network.classify(embeddings, subject.text)
    recorded = reference.get(prefix + "sim_logits")
    ledger.compare("shift/sim_logits", prefix + "sim_logits", logits, recorded)
    if recorded is not None and ratio in (0, 1):
        _check_classify_regions(reference, subject, ledger, image, run, ratio, layers)


def _check_classify_regions(
    reference: Reference,
    subject: Subject,
    ledger: Ledger,
    image: ImageInfo,
    run: str,
    ratio: float,
    layers: tuple[int, ...],
) -> None:
    """Compare what the network itself does in a test, for a run in which nothing is left to chance."""
    name = f"{image.name}/shift/{run}/sim_logits"
    view, pixels = subject.view(image), subject.pixels(image)
    masks = reference.bits(f"{image.name}/shift/mask_bits", image.size[1])
    if view is None or pixels is None or masks is None:
        return
    probabilities = subject.network.classify_regions(
        pixels,
        masks.float(),
        [layer[0] for layer in view.output.image_tokens],
        image_id=image.name,
        text=subject.text,
        settings=replace(subject.settings, replace_ratio=ratio, replace_layers=layers),
    )
    valid = masks.flatten(1).any(1)
    expected = reference.tensors[name][:, :-1].softmax(-1)
    ledger.compare("shift/classify_regions", name, probabilities[valid], expected)
