"""Compare ensembles and semantic maps, image by image and as one batch."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from scan_lightning.models.inference import class_scores, semantic_labels, semantic_scores
from scan_lightning.verification.ledger import Ledger, Stage
from scan_lightning.verification.network import in_vocab_logits
from scan_lightning.verification.reference import ImageInfo, Reference
from scan_lightning.verification.regions import (
    Regions,
    class_tokens,
    compare_masks,
    cut,
    drawn_again,
    mask_probabilities,
    shifted_embeddings,
    wrong_selections,
)
from scan_lightning.verification.shift import INJECTED
from scan_lightning.verification.subject import Subject, View

LABEL_MARGIN = 1e-4
"""A label differs where its recorded score is below the best one by more than this share of the largest score."""

VARIANTS = ("normal", "log")

STAGES = (
    Stage(name="infer/normal/class_scores", remark=INJECTED),
    Stage(name="infer/normal/sem_seg", remark="before and after the last resize"),
    Stage(name="infer/log/class_scores", remark="the variant for the largest vocabularies"),
    Stage(name="infer/log/sem_seg"),
    Stage(name="infer/labels", tolerance=0, measure="count", remark="pixels without a clear winner excepted"),
)

BATCH_STAGES = (
    Stage(name="batch/masks", tolerance=0, measure="count", remark="as shift/masks"),
    Stage(name="batch/in_vocab"),
    Stage(name="batch/selection", tolerance=0, measure="count", remark="as shift/selection"),
    Stage(name="batch/seeded", tolerance=0, measure="count", remark="as shift/seeded"),
    Stage(
        name="batch/sim_logits",
        remark=f"{INJECTED}; [CLS] of the first image for all, as the reference does and this project does not",
    ),
    Stage(name="batch/sem_seg"),
)


def out_vocab(logits: Tensor, valid: Tensor) -> Tensor:
    """Turn CLIP's logits of the valid queries into probabilities of all, 1 for the others: float (Q, K).

    Args:
        logits: float (R, K + 1), non-object last.
        valid: bool (Q,).
    """
    result = logits.new_ones(len(valid), logits.shape[1] - 1)
    result[valid] = logits[:, :-1].softmax(-1)
    return result


def check(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare scores and maps of every image.

    Args:
        reference: The folder.
        subject: The network.
        ledger: Where results go.
    """
    for image in reference.images:
        view, pixels = subject.view(image), subject.pixels(image)
        binary = reference.bits(f"{image.name}/shift/mask_bits", image.size[1])
        if view is None or pixels is None or binary is None or not reference.names(f"{image.name}/infer/.*"):
            continue
        regions = cut(subject, pixels, binary)
        layers = tuple(sorted(subject.settings.replace_layers))
        selected = reference.bits(f"{image.name}/shift/main/selected_bits", regions.foreground.shape[1])
        if selected is None:
            continue
        tokens = [layer[0] for layer in view.output.image_tokens]
        logits = _region_logits(subject, regions, selected, tokens, layers)
        in_vocab = in_vocab_logits(reference, subject, image, ledger, "infer/normal/class_scores")
        masks = mask_probabilities(view, image)
        for variant in VARIANTS:
            settings = replace(subject.settings, log_ensemble=variant == "log")
            scores = class_scores(in_vocab, out_vocab(logits, regions.valid), settings)
            _check_variant(reference, ledger, image, variant, scores, masks)


@torch.no_grad()
def _region_logits(
    subject: Subject, regions: Regions, selected: Tensor, tokens: list[Tensor], layers: tuple[int, ...]
) -> Tensor:
    """Give CLIP's logits of the regions with recorded selections: float (R, K + 1)."""
    chosen = dict(zip(layers, selected, strict=True))
    embeddings = shifted_embeddings(subject, regions.crops, chosen, class_tokens(tokens, layers))
    return subject.network.classify(embeddings, subject.text)


def _check_variant(
    reference: Reference, ledger: Ledger, image: ImageInfo, variant: str, scores: Tensor, masks: Tensor
) -> None:
    """Compare scores, maps and labels of one ensemble."""
    prefix = f"{image.name}/infer/{variant}/"
    stage = f"infer/{variant}/"
    ledger.compare(stage + "class_scores", prefix + "class_scores", scores, reference.get(prefix + "class_scores"))
    for name, size in (("semseg", image.size), ("sem_seg", image.output_size)):
        ours = semantic_scores(scores, masks, size=size)
        ledger.compare(stage + "sem_seg", prefix + name, ours, reference.get(prefix + name))
    recorded = reference.get(prefix + "sem_seg")
    if recorded is not None:
        labels = semantic_labels(scores, masks, size=image.output_size)
        lost = recorded.max(0).values - recorded.gather(0, labels[None])[0]
        wrong = lost > LABEL_MARGIN * float(recorded.abs().max())
        ledger.note_error("infer/labels", prefix + "sem_seg", float(wrong.sum()))


def check_batch(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare the results of all images forwarded as one batch.

    Args:
        reference: The folder.
        subject: The network.
        ledger: Where results go.
    """
    batch = subject.batch()
    if batch is None or not reference.names("batch/.*"):
        return
    with torch.no_grad():
        view = subject.watch(*batch)
    seed = reference.seed(r"random\.seed\((\d+)\)` before the forward, images in order")
    # One generator draws for all images in turn, so it is of use only if all of them are there.
    whole = all(f"batch/{image.name}/mask_bits" in reference.tensors for image in reference.images)
    generator = random.Random(seed) if whole and seed is not None else None  # noqa: S311
    for image in reference.images:
        _check_batched_image(reference, subject, ledger, view, image, generator)


def _check_batched_image(
    reference: Reference,
    subject: Subject,
    ledger: Ledger,
    view: View,
    image: ImageInfo,
    generator: random.Random | None,
) -> None:
    """Compare one image of the batch; the generator goes on from image to image."""
    prefix = f"batch/{image.name}/"
    settings, pixels = subject.settings, subject.pixels(image)
    binary = reference.bits(prefix + "mask_bits", image.size[1])
    if binary is None or pixels is None:
        return
    masks = mask_probabilities(view, image, image.index)
    compare_masks(ledger, "batch/masks", prefix + "mask_bits", masks, binary, settings.mask_threshold)
    in_vocab = _batched_logits(reference, subject, ledger, view, image)
    regions = cut(subject, pixels, binary)
    selected = reference.bits(prefix + "selected_bits", regions.foreground.shape[1])
    if selected is None:
        return
    ratio, layers = settings.replace_ratio, tuple(sorted(settings.replace_layers))
    wrong = wrong_selections(selected, regions.foreground, ratio=ratio)
    ledger.note_error("batch/selection", prefix + "selected_bits", wrong)
    if generator is not None:
        again = drawn_again(regions.foreground, ratio=ratio, layers=len(layers), generator=generator)
        ledger.compare("batch/seeded", prefix + "selected_bits", again, selected)
    tokens = [layer[0] for layer in view.output.image_tokens]
    logits = _region_logits(subject, regions, selected, tokens, layers)
    ledger.compare("batch/sim_logits", prefix + "sim_logits", logits, reference.get(prefix + "sim_logits"))
    found = reference.strided(prefix + "sem_seg", "s")
    if found is not None and in_vocab is not None:
        recorded, step, name = found
        scores = class_scores(in_vocab, out_vocab(logits, regions.valid), settings)
        ours = semantic_scores(scores, masks, size=image.output_size)[:, ::step, ::step]
        ledger.compare("batch/sem_seg", name, ours, recorded)


def _batched_logits(
    reference: Reference, subject: Subject, ledger: Ledger, view: View, image: ImageInfo
) -> Tensor | None:
    """Compare the class logits of a batched image and give them, recorded ones where weights are omitted."""
    name = f"batch/{image.name}/in_vocab"
    recorded = reference.get(name)
    if not subject.complete:
        ledger.remark("batch/in_vocab", "weights omitted")
        ledger.remark("batch/sem_seg", "recorded logits as input")
        return recorded
    logits = view.output.class_logits[-1][image.index]
    ledger.compare("batch/in_vocab", name, logits, recorded)
    return logits
