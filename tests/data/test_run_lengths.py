"""Masks as COCO's run lengths."""

import numpy as np
import pytest

from scan_lightning.data.run_lengths import decode_mask, encode_mask


@pytest.mark.parametrize("seed", range(4))
def test_decode_gives_back_what_encode_wrote(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((int(rng.integers(1, 9)), int(rng.integers(1, 9)))) < 0.5
    counts = encode_mask(mask)
    assert counts.dtype == np.uint32
    assert np.array_equal(decode_mask(counts, mask.shape), mask)


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 0, 0]], [3]),
        ([[1, 1]], [0, 2]),
        ([[0, 1], [0, 1], [1, 0]], [2, 3, 1]),  # column by column
    ],
)
def test_counts_are_those_of_coco(mask: list[list[int]], counts: list[int]) -> None:
    assert encode_mask(np.array(mask, dtype=bool)).tolist() == counts


def test_counts_of_another_size_raise() -> None:
    with pytest.raises(ValueError, match="expected runs of 6 pixels for 2 x 3, got 5"):
        decode_mask([2, 3], (2, 3))
