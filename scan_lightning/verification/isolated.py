"""Compare single modules on recorded inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from scan_lightning.models.contextual_shift import cut_regions, region_boxes
from scan_lightning.models.semantic_integration import frequency_weights
from scan_lightning.verification.criterion import CriterionCheck, criterion_stages, output_name
from scan_lightning.verification.ledger import Ledger, Stage
from scan_lightning.verification.reference import Reference
from scan_lightning.verification.subject import Subject

STAGES = (
    Stage(name="iso/msdeform_core"),
    Stage(name="iso/msdeform_attn"),
    Stage(name="iso/lfm", remark="several sigmas, one map not square"),
    Stage(name="iso/one_minus_gaussian"),
    Stage(name="iso/ca"),
    Stage(name="iso/lightweight"),
    Stage(name="iso/pos_sine"),
    Stage(name="iso/swin_layer", remark="odd sides: padded windows and padded patch merging"),
    Stage(name="iso/swin_mask", tolerance=0, measure="count", remark="attention mask of shifted windows"),
    Stage(name="iso/swin_block", remark="shifted windows"),
    Stage(name="iso/crop", remark="plain and expanded boxes"),
    Stage(name="iso/crop_mask", tolerance=0, measure="count"),
    *criterion_stages("iso/criterion/"),
)


def check(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare the modules for which the folder has inputs.

    Args:
        reference: The folder.
        subject: The network.
        ledger: Where results go.
    """
    checks: Mapping[str, Callable[[Reference, Subject, Ledger], None]] = {
        "iso/msdeform": _check_deformable,
        "iso/lfm": _check_enhancement,
        "iso/ca/": _check_fusion,
        "iso/lightweight/": _check_encoder,
        "iso/pos_sine/": _check_positions,
        "iso/swin": _check_swin,
        "iso/crop/": _check_crops,
        "iso/criterion/": _check_criterion,
    }
    with torch.no_grad():
        for prefix, run in checks.items():
            if not reference.names(prefix + ".*"):
                continue
            try:
                run(reference, subject, ledger)
            except KeyError as error:
                for stage in STAGES:
                    if stage.name.startswith(prefix.rstrip("/")):
                        ledger.remark(stage.name, f"absent: {error.args[0]}")


def _inputs(reference: Reference, prefix: str, *names: str) -> list[Tensor]:
    """Give recorded inputs, or raise KeyError with the name of an absent one."""
    return [reference.tensors[prefix + name] for name in names]


def _check_deformable(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare the sampling of multi-scale deformable attention, and one whole attention."""
    prefix = "iso/msdeform_core/"
    value, sizes, locations, weights = _inputs(reference, prefix, "value", "shapes", "locations", "weights")
    shapes = [(int(height), int(width)) for height, width in sizes]
    out = multi_scale_deformable_attention(value, shapes, locations, weights)
    ledger.compare("iso/msdeform_core", prefix + "out", out, reference.get(prefix + "out"))
    prefix = "iso/msdeform_attn/"
    if reference.get(prefix + "out") is None:
        return
    query, points, flat = _inputs(reference, prefix, "query", "reference_points", "input_flatten")
    layer = reference.described(prefix + "out", r"encoder\.layers\.(\d+)\.self_attn") or ("0",)
    attention = subject.level.decoder.encoder.layers[int(layer[0])].self_attn
    out = attention(query, encoder_hidden_states=flat, reference_points=points, spatial_shapes_list=shapes)[0]
    ledger.compare("iso/msdeform_attn", prefix + "out", out, reference.get(prefix + "out"))


def _check_enhancement(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare low-frequency enhancement; the manifest tells the sigmas."""
    enhancement = subject.sim.enhancement
    for match in reference.names(r"(iso/lfm_\w+/)x"):
        sigma = reference.described(match[0], r"sigma ([\d.]*\d)")
        if sigma is None or enhancement is None:
            ledger.remark("iso/lfm", "the manifest does not tell sigma")
            continue
        x, name = reference.tensors[match[0]], match[1] + "out"
        ledger.compare("iso/lfm", name, enhancement(x, float(sigma[0])), reference.get(name))
        weights, name = frequency_weights(x.shape[-2], x.shape[-1], float(sigma[0])), match[1] + "one_minus_gaussian"
        ledger.compare("iso/one_minus_gaussian", name, weights, reference.get(name))


def _check_fusion(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare the fusion decoder."""
    target, memory = _inputs(reference, "iso/ca/", "tgt", "memory")
    if subject.sim.fusion is not None:
        ledger.compare("iso/ca", "iso/ca/out", subject.sim.fusion(target, memory), reference.get("iso/ca/out"))


def _check_encoder(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare SIM's transformer encoder."""
    if not subject.complete:
        ledger.remark("iso/lightweight", "weights omitted")
        return
    x = reference.tensors["iso/lightweight/x"]
    ledger.compare(
        "iso/lightweight", "iso/lightweight/out", subject.sim.encoder(x), reference.get("iso/lightweight/out")
    )


def _check_positions(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare the sine position embedding, whose size is in the tensor's name."""
    for match in reference.names(r"iso/pos_sine/out_(\d+)x(\d+)"):
        recorded = reference.tensors[match[0]]
        shape = torch.Size((1, len(recorded), int(match[1]), int(match[2])))
        ours = subject.level.decoder.position_embedding(shape, recorded.device, recorded.dtype)[0]
        ledger.compare("iso/pos_sine", match[0], ours, recorded)


def _check_swin(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare a stage of the backbone and a block with shifted windows; the manifest tells which and the size."""
    where = reference.described("iso/swin_layer/x", r"backbone\.layers\.(\d+), H=(\d+), W=(\d+)")
    if where is None:
        ledger.remark("iso/swin_layer", "the manifest does not tell the layer")
        return
    index, *size = (int(number) for number in where)
    height, width = size
    stage: Any = subject.level.encoder.swin.encoder.layers[index]
    x = reference.tensors["iso/swin_layer/x"]
    down, out, _ = stage(x, (height, width), always_partition=True, output_hidden_states_before_downsampling=True)
    name = "iso/swin_layer/out"
    ledger.compare("iso/swin_layer", name, out.flatten(2).transpose(1, 2), reference.get(name))
    ledger.compare("iso/swin_layer", "iso/swin_layer/down", down, reference.get("iso/swin_layer/down"))
    block_index = reference.described("iso/swin_block/x", rf"backbone\.layers\.{index}\.blocks\.(\d+)")
    if block_index is None:
        return
    block = stage.blocks[int(block_index[0])]
    out, _ = block(reference.tensors["iso/swin_block/x"], (height, width), always_partition=True)
    ledger.compare("iso/swin_block", "iso/swin_block/out", out, reference.get("iso/swin_block/out"))
    window = block.window_size
    padded = (height + -height % window, width + -width % window)
    mask = block.get_attn_mask(*padded, x.dtype, x.device)
    ledger.compare("iso/swin_mask", "iso/swin_block/mask", mask, reference.get("iso/swin_block/mask"))


def _check_crops(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare crops at their own size, where resizing changes nothing, back in the range 0 to 255."""
    clip = subject.network.clip
    image, masks = _inputs(reference, "iso/crop/", "image", "masks")
    binary = masks.bool()
    for match in reference.names(r"iso/crop/e([\d.]+)_region(\d+)"):
        region = slice(int(match[2]), int(match[2]) + 1)
        box = region_boxes(binary[region], expand=float(match[1]))
        x1, y1, x2, y2 = (int(end) for end in box[0])
        crop, crop_mask = cut_regions(clip.normalize(image), binary[region], box, size=(y2 - y1, x2 - x1))
        ledger.compare("iso/crop", match[0], crop[0] * clip.std + clip.mean, reference.get(match[0]))
        name = f"iso/crop/e{match[1]}_mask{match[2]}"
        ledger.compare("iso/crop_mask", name, crop_mask, reference.get(name))


def _check_criterion(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare the loss on recorded predictions and targets."""
    prefix = "iso/criterion/"
    values = reference.values.get("iso_criterion")
    if values is None:
        return
    images = len(reference.names(prefix + r"labels\d+"))
    targets = [reference.tensors[f"{prefix}masks{image}"].float() for image in range(images)]
    labels = [reference.tensors[f"{prefix}labels{image}"].long() for image in range(images)]
    criterion = CriterionCheck(
        reference=reference, ledger=ledger, prefix=prefix, values=values, weights=reference.model["MASK_FORMER"]
    )
    for output in range(len(reference.names(prefix + r"\w+/pred_logits"))):
        logits, masks = _inputs(reference, f"{prefix}{output_name(output)}/", "pred_logits", "pred_masks")
        criterion.check_output(output, logits, masks, targets, labels)
