"""Compare text features and the stages of the network, each image forwarded alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.prompts import templates
from scan_lightning.verification.ledger import Ledger, Stage
from scan_lightning.verification.reference import ImageInfo, Reference
from scan_lightning.verification.subject import Subject, View

TEXT_STAGES = (
    Stage(name="text/tokenizer", tolerance=0, measure="count"),
    Stage(name="text/tokens", tolerance=0, measure="count"),
    Stage(name="text/features"),
)

STAGES = (
    Stage(name="clip/input"),
    Stage(name="clip/tokens", remark="after the first norm and every block"),
    Stage(name="clip/final_cls"),
    Stage(name="lfm/out"),
    Stage(name="oriclip_mlp/out"),
    Stage(name="backbone", remark="res2 to res5"),
    Stage(name="pixel_decoder/encoder_out"),
    Stage(name="pixel_decoder/mask_features"),
    Stage(name="pixel_decoder/ms"),
    Stage(name="decoder/class_embed", remark="every prediction head"),
    Stage(name="decoder/pred_masks"),
    Stage(name="decoder/pred_masks_aux"),
    Stage(name="decoder/attn_mask", tolerance=0, measure="count"),
    Stage(name="fusion/out"),
    Stage(name="lightweight/out"),
    Stage(name="logits/in_vocab"),
)


def check_text(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare tokenizer, prompts and text features.

    Args:
        reference: The folder.
        subject: The network.
        ledger: Where results go.
    """
    tokenizer = subject.network.clip.tokenizer
    for text, recorded in reference.values.get("tokenizer", {}).items():
        tokens = tokenizer([text])[0]
        expected = F.pad(torch.tensor(recorded), (0, len(tokens) - len(recorded)))
        ledger.compare("text/tokenizer", repr(text), tokens, expected)
    words = reference.config["class_names"]
    prompts = templates(subject.network.config.template_set)
    tokens = torch.stack([tokenizer([template.format(word) for word in words]) for template in prompts])
    ledger.compare("text/tokens", "text/tokens", tokens, reference.get("text/tokens"))
    void = F.normalize(subject.network.non_object_embedding.detach(), dim=-1)
    features = torch.cat([subject.text.features, void])
    ledger.compare("text/features", "text/features", features, reference.get("text/features"))


def check_stages(reference: Reference, subject: Subject, ledger: Ledger) -> None:
    """Compare the stages of every image.

    Args:
        reference: The folder.
        subject: The network.
        ledger: Where results go.
    """
    for image in reference.images:
        view = subject.view(image)
        if view is None:
            continue
        _check_clip(reference, view, ledger, image.name)
        _check_segmenter(reference, view, ledger, image.name)
        _check_masks(reference, view, ledger, image.name)
        _check_integration(reference, subject, view, ledger, image)


def in_vocab_logits(reference: Reference, subject: Subject, image: ImageInfo, ledger: Ledger, stage: str) -> Tensor:
    """Give the segmenter's class logits of an image, (Q, K + 1), recorded ones where weights are omitted.

    Args:
        reference: The folder.
        subject: The network.
        image: Which image; the folder must have it.
        ledger: Gets a remark about recorded input.
        stage: The stage that needs them.

    Raises:
        ValueError: If they can be neither computed nor read.
    """
    view = subject.view(image)
    if view is not None and subject.complete:
        return view.output.class_logits[-1][0]
    recorded = reference.get(f"{image.name}/logits/in_vocab")
    if recorded is None:
        raise ValueError(f"{image.name}/logits/in_vocab: neither recorded nor to be computed from the folder")
    ledger.remark(stage, "recorded logits as input")
    return recorded


def _check_clip(reference: Reference, view: View, ledger: Ledger, image: str) -> None:
    """Compare CLIP on the whole image, and the memory made of its tokens."""
    call = view.calls["clip"][0]
    found = reference.strided(f"{image}/clip/input", "s")
    if found is not None:
        recorded, step, name = found
        ledger.compare("clip/input", name, call.inputs[0][0, :, ::step, ::step], recorded)
    outputs = {
        "clip/tokens": torch.cat(view.output.image_tokens),
        "clip/final_cls": call.output,
        "lfm/out": torch.cat([each.output for each in view.calls["lfm"]]),
        "oriclip_mlp/out": view.calls["memory"][0].output[0],
    }
    for name, ours in outputs.items():
        ledger.compare(name, f"{image}/{name}", ours, reference.get(f"{image}/{name}"))


def _check_segmenter(reference: Reference, view: View, ledger: Ledger, image: str) -> None:
    """Compare backbone and pixel decoder."""
    for index, features in enumerate(view.calls["backbone"][0].output.feature_maps):
        name = f"{image}/backbone/res{index + 2}"
        ledger.compare("backbone", name, features[0], reference.get(name))
    encoded = view.calls["pixel_encoder"][0].output.last_hidden_state[0]
    decoded = view.calls["pixel_decoder"][0].output
    for name, ours in {
        "pixel_decoder/encoder_out": encoded,
        "pixel_decoder/mask_features": decoded.mask_features[0],
    }.items():
        ledger.compare(name, f"{image}/{name}", ours, reference.get(f"{image}/{name}"))
    for index, features in enumerate(decoded.multi_scale_features):
        name = f"{image}/pixel_decoder/ms{index}"
        ledger.compare("pixel_decoder/ms", name, features[0], reference.get(name))


def _check_masks(reference: Reference, view: View, ledger: Ledger, image: str) -> None:
    """Compare what every prediction head gives: embeddings, masks, attention masks."""
    embeddings = torch.cat([call.output for call in view.calls["embedding_head"]])
    name = f"{image}/decoder/class_embed"
    ledger.compare("decoder/class_embed", name, embeddings, reference.get(name))
    masks = torch.cat([call.output[0] for call in view.calls["mask_predictor"]])
    name = f"{image}/decoder/pred_masks"
    ledger.compare("decoder/pred_masks", name, masks[-1], reference.get(name))
    found = reference.strided(f"{image}/decoder/pred_masks_aux", "q")
    if found is not None:
        recorded, step, name = found
        ledger.compare("decoder/pred_masks_aux", name, masks[:-1, ::step], recorded)
    for index, call in enumerate(view.calls["mask_predictor"][:-1]):
        name = f"{image}/decoder/attn_mask{index}"
        ledger.compare("decoder/attn_mask", name, call.output[1][0], reference.get(name))


def _check_integration(reference: Reference, subject: Subject, view: View, ledger: Ledger, image: ImageInfo) -> None:
    """Compare SIM and the class logits."""
    name = f"{image.name}/fusion/out"
    ledger.compare("fusion/out", name, view.calls["fusion"][0].output[0], reference.get(name))
    name = f"{image.name}/lightweight/out"
    encoded = reference.get(name)
    logits = view.output.class_logits[-1][0]
    if subject.complete:
        ledger.compare("lightweight/out", name, view.calls["encoder"][0].output[:, 0], encoded)
    else:
        ledger.remark("lightweight/out", "weights omitted")
        if encoded is None:
            return
        ledger.remark("logits/in_vocab", "recorded lightweight/out as input")
        with torch.no_grad():
            logits = subject.network.classify(encoded, subject.text)
    name = f"{image.name}/logits/in_vocab"
    ledger.compare("logits/in_vocab", name, logits, reference.get(name))
