"""The types that pass between the parts: vocabulary, hierarchy, batches and predictions, with their shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

IGNORE_INDEX = -1
"""Label of pixels that count neither in a loss nor in a metric. Files keep their own ignore value; readers map it."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words of a benchmark, in label order.

    Args:
        names: One display name per class; unique, stripped, not empty.
        synonyms: For each class the texts that CLIP encodes, the score of the class being the maximum over them.
            Defaults to the name alone.
        seen: For each class whether the training vocabulary holds it. Defaults to all seen.
        palette: For each class an RGB colour, 0 to 255. Empty means that drawings choose colours.

    Raises:
        ValueError: If a list is empty or of another length than ``names``, or a text is empty, padded or repeated.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()
    seen: tuple[bool, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Fill defaults in and check the lists against one another."""
        if not self.names:
            raise ValueError("a vocabulary needs at least one word, got none")
        object.__setattr__(self, "synonyms", self.synonyms or tuple((name,) for name in self.names))
        object.__setattr__(self, "seen", self.seen or (True,) * len(self.names))
        for label, values in (("synonyms", self.synonyms), ("seen", self.seen), ("palette", self.palette)):
            if values and len(values) != len(self.names):
                raise ValueError(f"{label} has {len(values)} entries for {len(self.names)} names")
        _check_words(self.names, "names")
        for name, words in zip(self.names, self.synonyms, strict=True):
            _check_words(words, f"synonyms of {name!r}")

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Vocabulary:
        """Make a vocabulary of plain words, one class each.

        Args:
            words: Class names; surrounding white space is dropped.

        Returns:
            The vocabulary, all classes seen, in the order given.

        Raises:
            ValueError: If there is no word, an empty word or a word given twice.

        Example:
            >>> Vocabulary.from_words([" sky", "red car"]).names
            ('sky', 'red car')
        """
        return cls(names=tuple(word.strip() for word in words))

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.names)

    @property
    def seen_indices(self) -> tuple[int, ...]:
        """Labels of the seen classes, ascending."""
        return tuple(index for index, flag in enumerate(self.seen) if flag)

    def subset(self, indices: Sequence[int]) -> Vocabulary:
        """Restrict to some classes, renumbered in the order given.

        Args:
            indices: Labels in [0, K).

        Returns:
            A vocabulary of ``len(indices)`` classes.

        Raises:
            IndexError: If a label is outside [0, K).
        """
        return Vocabulary(
            names=tuple(self.names[i] for i in indices),
            synonyms=tuple(self.synonyms[i] for i in indices),
            seen=tuple(self.seen[i] for i in indices),
            palette=tuple(self.palette[i] for i in indices) if self.palette else (),
        )


def _check_words(words: Sequence[str], what: str) -> None:
    """Raise ValueError unless every word is stripped, not empty and given once."""
    known: set[str] = set()
    if not words:
        raise ValueError(f"{what}: expected at least one word, got none")
    for word in words:
        if not word or word != word.strip():
            raise ValueError(f"{what}: expected words without surrounding white space, got {word!r}")
        if word in known:
            raise ValueError(f"{what}: {word!r} is given twice")
        known.add(word)


@dataclass(frozen=True, kw_only=True)
class ClassHierarchy:
    """Parents of classes for SG-IoU (paper section 3.4): predicting a parent of the true class is partly right.

    Args:
        num_classes: K, the number of classes of the vocabulary that the labels belong to.
        parents: For a child's label the labels of its parents. Classes without parents may be left out.

    Raises:
        ValueError: If a label is outside [0, K), a class is its own parent, or a parent is given twice.
    """

    num_classes: int
    parents: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every pair of child and parent."""
        for child, parents in self.parents.items():
            for label in (child, *parents):
                if not 0 <= label < self.num_classes:
                    raise ValueError(f"class {label} in the parents of {child} is outside [0, {self.num_classes})")
            if child in parents:
                raise ValueError(f"class {child} is given as its own parent")
            if len(set(parents)) != len(parents):
                raise ValueError(f"class {child} has a parent given twice: {list(parents)}")


@dataclass(kw_only=True)
class Sample:
    """One image of a data set, as a DataModule's dataset returns it.

    Attributes:
        image: uint8 (3, H, W), RGB 0 to 255, at the size that the network sees.
        image_id: Name that is unique in the split and the same in every run (draws of Contextual Shift depend on it).
        label_map: int64, labels in [0, K) or IGNORE_INDEX: (H, W) in training, (H0, W0) at the image's original size in
            evaluation, None where there is no truth.
        original_size: (H0, W0), the size at which the prediction is wanted.
    """

    image: Tensor
    image_id: str
    label_map: Tensor | None
    original_size: tuple[int, int]


@dataclass(kw_only=True)
class Batch:
    """Samples collated for the network. B images padded on the right and bottom to common H and W.

    Attributes:
        images: uint8 (B, 3, H, W), RGB 0 to 255; what lies outside ``sizes`` is padding.
        sizes: The valid (H_i, W_i) of each image.
        image_ids: One per image.
        original_sizes: (H0, W0) of each image.
        masks: In training, bool (T_i, H, W) per image, one mask per class that is present; else empty.
        labels: In training, int64 (T_i,) per image, the classes of ``masks``; else empty.
        label_maps: In evaluation, int64 (H0_i, W0_i) per image or None; in training empty.
        step_targets: In training with gradient accumulation, the number of masks of every image of all batches whose
            gradients one optimiser step adds up; else empty.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    image_ids: list[str]
    original_sizes: list[tuple[int, int]]
    masks: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    label_maps: list[Tensor | None] = field(default_factory=list)
    step_targets: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class RegionTextBatch:
    """Regions and their texts, for training CLIP contrastively.

    Attributes:
        images: uint8 (B, 3, S, S), RGB 0 to 255, regions resized to CLIP's input size.
        texts: One caption per region.
    """

    images: Tensor
    texts: list[str]


@dataclass(kw_only=True)
class MaskTextBatch:
    """Masked regions, their texts and the images they come from, for training CLIP under Contextual Shift.

    R regions of B distinct images; S is CLIP's input size.

    Attributes:
        crops: uint8 (R, 3, S, S), RGB 0 to 255: each region's tight box, with CLIP's mean colour outside the mask.
        region_masks: bool (R, S, S), the masks of the crops.
        texts: The text of each region.
        images: uint8 (B, 3, S, S), the whole images.
        image_ids: Name of each image.
        owners: int64 (R,), for each region the index of its image.
        regions: int64 (R,), for each region its number within its image.
        boxes: In evaluation, uint8 (R, 3, S, S): the tight boxes with their surroundings left in; in training None.
    """

    crops: Tensor
    region_masks: Tensor
    texts: list[str]
    images: Tensor
    image_ids: list[str]
    owners: Tensor
    regions: Tensor
    boxes: Tensor | None = None


@dataclass(kw_only=True)
class SegmenterOutput:
    """Output of the mask segmenter for every prediction head, index 0 the learnable queries, last the final one.

    Attributes:
        proposal_embeddings: L + 1 tensors (B, Q, D), in CLIP's joint space, not normalised.
        mask_logits: L + 1 tensors (B, Q, H / 4, W / 4).
    """

    proposal_embeddings: list[Tensor]
    mask_logits: list[Tensor]


@dataclass(kw_only=True)
class Segmentation:
    """What `Scan.segment` and `ScanModule.predict_step` return for one image.

    Attributes:
        image_id: The image's name.
        label_map: int64 (H0, W0), labels in [0, K).
        class_pixels: int64 (K,), pixels of each class in ``label_map``.
        words: The K words, in label order.
    """

    image_id: str
    label_map: Tensor
    class_pixels: Tensor
    words: tuple[str, ...]
