"""Match a segmenter's proposals with the words of a caption by CLIP, to make training pairs (spec section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.contextual_shift import cut_regions, region_boxes
from scan_lightning.models.inference import InferenceSettings, upsample_masks
from scan_lightning.models.scan import Scan
from scan_lightning.models.text import TextFeatures


@dataclass(frozen=True, kw_only=True)
class ProposalWord:
    """A proposal and the word that it shows.

    Attributes:
        query: The proposal's number.
        mask: bool (H, W), on the CPU.
        word: Index of the word.
        similarity: Cosine similarity of masked crop and word.
    """

    query: int
    mask: Tensor
    word: int
    similarity: float


@torch.no_grad()
def match_proposals(
    scan: Scan,
    seen: Tensor,
    image: Tensor,
    text: TextFeatures,
    *,
    settings: InferenceSettings,
    min_area: int = 64,
    min_similarity: float = -1.0,
) -> list[ProposalWord]:
    """Find for each word the proposal that shows it best.

    A word gets the proposal whose masked crop is most similar to it, if of all the words it is the one that the
    proposal is most similar to. The crops are plain ones, cut from the image at its own size, since Contextual Shift is
    yet to be learnt.

    Args:
        scan: A trained network, in evaluation mode.
        seen: (3, h, w), RGB 0 to 255, the image at the size that the segmenter sees.
        image: (3, H, W), RGB 0 to 255, the image at its own size, that of the masks.
        text: Features of the words, one row each.
        settings: Threshold of the masks, and how many regions CLIP encodes at once.
        min_area: Proposals with fewer pixels are left out.
        min_similarity: Matches below this are left out.

    Returns:
        At most one match per word, by ascending word; each proposal has at most one word.
    """
    size = (int(seen.shape[1]), int(seen.shape[2]))
    output = scan(seen[None], [size], text)
    masks = upsample_masks(output.mask_logits[-1][0], padded=output.padded, size=size)
    if tuple(image.shape[1:]) != size:
        masks = F.interpolate(masks[None], size=image.shape[1:], mode="bilinear", align_corners=False)[0]
    binary = masks > settings.mask_threshold
    queries = (binary.flatten(1).sum(1) >= max(1, min_area)).nonzero()[:, 0]
    if len(queries) == 0:
        return []
    similarity = text.similarities(_encode(scan, image, binary, queries, settings.region_batch))  # (regions, words)
    best_word, best_region = similarity.argmax(dim=1), similarity.argmax(dim=0)
    matches = []
    for word, region in enumerate(best_region.tolist()):
        value = float(similarity[region, word])
        if int(best_word[region]) == word and value >= min_similarity:
            query = int(queries[region])
            matches.append(ProposalWord(query=query, mask=binary[query].cpu(), word=word, similarity=value))
    return matches


def _encode(scan: Scan, image: Tensor, binary: Tensor, queries: Tensor, chunk: int) -> Tensor:
    """Encode the masked crops of some proposals: float32 (regions, D), L2-normalised."""
    clip, pixels = scan.clip, scan.clip.normalize(image)
    embeddings = []
    for part in torch.split(queries, chunk):
        masks = binary[part]
        crops, _ = cut_regions(pixels, masks, region_boxes(masks), size=(clip.image_size, clip.image_size))
        visual = clip.region_visual
        embeddings.append(F.normalize(visual(crops).float(), dim=-1))
    return torch.cat(embeddings)


def select_words(text: TextFeatures, words: Sequence[int]) -> TextFeatures:
    """Take some words out of encoded ones, each a class of its own.

    Args:
        text: Features with one row per word.
        words: Indices of rows.

    Returns:
        Features of ``len(words)`` classes.
    """
    rows = torch.tensor(list(words), device=text.features.device)
    return TextFeatures(text.features[rows], torch.arange(len(rows), device=rows.device), len(rows))
