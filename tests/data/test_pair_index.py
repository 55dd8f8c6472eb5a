"""The index of mask-text pairs: written part by part, whole or not at all, and read back."""

import json
from pathlib import Path

import numpy as np
import pytest

from scan_lightning.data.pair_index import INDEX_NAME, MaskText, PairIndex, PairIndexWriter
from scan_lightning.types import Vocabulary

VOCABULARY = Vocabulary(names=("sky", "red star"), synonyms=(("sky",), ("red star", "star")))


def pair(number: int, text: str = "sky") -> MaskText:
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, number : number + 3] = True
    return MaskText(image=f"a/{number}.png", image_id=str(number), region=number, mask=mask, text=text, source="truth")


def write(folder: Path, **options: object) -> PairIndexWriter:
    return PairIndexWriter(folder, **({"made_from": {"split": "train"}, "parts": 2} | options))


def finished(folder: Path) -> PairIndex:
    writer = write(folder)
    writer.write(0, [pair(0), pair(1, "red star")])
    writer.write(1, [pair(2)])
    writer.finish(images_beside=False, vocabulary=VOCABULARY)
    return PairIndex(folder)


def test_index_gives_back_what_was_written(tmp_path: Path) -> None:
    index = finished(tmp_path / "index")
    assert len(index) == 3
    assert index.texts() == ["sky", "red star", "sky"]
    assert index.vocabulary == VOCABULARY
    assert not index.images_beside
    for number in range(3):
        found, expected = index[number], pair(number, index.texts()[number])
        assert np.array_equal(found.mask, expected.mask)
        assert (found.image, found.image_id, found.region) == (expected.image, expected.image_id, expected.region)
        assert (found.text, found.source, found.score) == (expected.text, "truth", 1.0)
        assert found.box == (1, number, 4, number + 3)


def test_rows_have_coco_boxes() -> None:
    row = pair(2).row()
    assert row["bbox"] == [2, 1, 3, 3]
    assert (row["height"], row["width"]) == (6, 8)


def test_broken_off_index_goes_on_at_the_missing_part(tmp_path: Path) -> None:
    first = write(tmp_path / "index")
    first.write(1, [pair(2)])
    with pytest.raises(ValueError, match="unfinished"):
        PairIndex(tmp_path / "index")
    again = write(tmp_path / "index")
    assert again.missing() == [0]
    again.write(0, [])
    assert len(again.finish(images_beside=True, vocabulary=None)) == 1
    assert write(tmp_path / "index").missing() == []


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    finished(tmp_path / "index")
    with pytest.raises(ValueError, match="made from something else"):
        write(tmp_path / "index", made_from={"split": "val"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="expected an empty folder"):
        write(tmp_path / "other")


def test_index_without_pairs_is_refused(tmp_path: Path) -> None:
    writer = write(tmp_path / "index", parts=1)
    writer.write(0, [])
    with pytest.raises(ValueError, match="at least one pair"):
        writer.finish(images_beside=False, vocabulary=None)


def test_damaged_indices_are_named(tmp_path: Path) -> None:
    finished(tmp_path / "index")
    part = tmp_path / "index" / "part-000001.parquet"
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="part is damaged"):
        PairIndex(tmp_path / "index", cache_dir=tmp_path / "cache")
    part.unlink()
    with pytest.raises(FileNotFoundError, match="part-000001"):
        PairIndex(tmp_path / "index")
    (tmp_path / "index" / INDEX_NAME).write_text("{")
    with pytest.raises(ValueError, match=r"index\.json: expected valid JSON"):
        PairIndex(tmp_path / "index")
    (tmp_path / "index" / INDEX_NAME).write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="expected format 1, got 99"):
        PairIndex(tmp_path / "index")
    with pytest.raises(FileNotFoundError, match="expected an index of pairs"):
        PairIndex(tmp_path / "none")
