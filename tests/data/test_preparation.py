"""Prepared files hold exactly the published labels, appear whole or not at all, and are made once."""

import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from data.miniature import CONVERTED_KEYS, labels_of, names_of, write_converted, write_original
from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.marker import MARKER_NAME, PreparedMarker, read_marker, write_marker
from scan_lightning.data.parallel import worker_pool
from scan_lightning.data.preparation import (
    LOCK_NAME,
    STARTED_NAME,
    Preparation,
    PreparationError,
    PreparationReport,
    plan_preparation,
    prepare,
)
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.files import UNFINISHED

SHARED = os.environ.get("SCAN_LIGHTNING_SHARED")


def plan(key: str, root: Path, split: str | None = None) -> Preparation:
    """The plan for the split to test on, or another."""
    benchmark = load_benchmark(key)
    return plan_preparation(benchmark, root=root, split=split or benchmark.eval_split)


def run(key: str, root: Path, split: str | None = None) -> PreparationReport:
    """Prepare a split."""
    return prepare(plan(key, root, split))


def snapshot(root: Path) -> dict[Path, int]:
    """When everything below a folder was changed last, the folders too."""
    return {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}


def leftovers(root: Path) -> list[Path]:
    """Half files."""
    return [path for path in root.rglob("*") if path.name.startswith(UNFINISHED)]


def assert_same_labels(key: str, root: Path, split: str) -> int:
    """Both layouts give the same labels of the same images; gives their number."""
    original = DATAMODULES[key](root=root, layout="original").source(split)
    converted = DATAMODULES[key](root=root, layout="converted").source(split)
    assert [pair.image.stem for pair in original.pairs] == [pair.image.stem for pair in converted.pairs]
    for index in range(len(original)):
        before, after = original[index], converted[index]
        assert before.image_id == after.image_id
        assert before.image.shape == after.image.shape
        assert before.label_map is not None
        assert after.label_map is not None
        np.testing.assert_array_equal(before.label_map, after.label_map)
    return len(original)


@pytest.mark.parametrize("key", CONVERTED_KEYS)
def test_prepare_gives_the_labels_of_the_original_files(key: str, tmp_path: Path) -> None:
    write_original(key, tmp_path)
    for split in (load_benchmark(key).train_split, load_benchmark(key).eval_split):
        assert run(key, tmp_path, split) == PreparationReport(written=3, compared=0, problems=())
        assert assert_same_labels(key, tmp_path, split) == 3
    assert not leftovers(tmp_path)
    assert DATAMODULES[key](root=tmp_path).found_layout() == "converted"


@pytest.mark.parametrize("key", CONVERTED_KEYS)
def test_prepare_writes_the_files_of_the_field(key: str, tmp_path: Path) -> None:
    write_original(key, tmp_path / "ours", splits=["val"] if "val" in load_benchmark(key).splits else None)
    split = load_benchmark(key).eval_split
    run(key, tmp_path / "ours", split)
    write_converted(key, tmp_path / "field", splits=[split])
    theirs = [path for path in (tmp_path / "field").rglob("*") if path.suffix in (".png", ".tif")]
    theirs = [path for path in theirs if "leftImg8bit" not in path.parts]
    assert len(theirs) == 3
    for path in theirs:
        ours = tmp_path / "ours" / path.relative_to(tmp_path / "field")
        with Image.open(path) as expected, Image.open(ours) as picture:
            assert picture.mode == expected.mode
            assert picture.format == expected.format
            np.testing.assert_array_equal(np.array(picture), np.array(expected))


@pytest.mark.parametrize("key", ["ade20k_847", "cityscapes_19", "pascal_context_59"])
def test_prepare_again_does_nothing(key: str, tmp_path: Path) -> None:
    write_original(key, tmp_path)
    run(key, tmp_path)
    before = snapshot(tmp_path)
    again = plan(key, tmp_path)
    assert again.nothing_to_do
    assert again.there == 3
    assert prepare(again) == PreparationReport(written=0, compared=0, problems=())
    assert snapshot(tmp_path) == before


def test_prepare_leaves_a_note_of_what_the_files_are(tmp_path: Path) -> None:
    folder = write_original("pascal_context_59", tmp_path) / "annotations_detectron2" / "pc59_val"
    run("pascal_context_60", tmp_path)  # of the benchmark whose files it reads
    assert read_marker(folder) == PreparedMarker(benchmark="pascal_context_59", split="val", files=3, order="released")
    assert not (folder / STARTED_NAME).exists()
    write_original("ade20k_847", tmp_path)
    run("ade20k_847", tmp_path)
    marker = read_marker(tmp_path / "ADE20K_2021_17_01" / "annotations_detectron2" / "validation")
    assert marker is not None
    assert marker.shorter_side == 512


def test_prepare_in_processes_equals_one_process(tmp_path: Path) -> None:
    write_original("ade20k_847", tmp_path, count=5)
    with worker_pool(2) as spread:
        report = prepare(plan("ade20k_847", tmp_path), spread)
    assert report == PreparationReport(written=5, compared=0, problems=())
    assert assert_same_labels("ade20k_847", tmp_path, "validation") == 5


def test_prepare_reduces_images_of_ade_847_and_copies_small_ones(tmp_path: Path) -> None:
    folder = write_original("ade20k_847", tmp_path, count=1, splits=["validation"], size=(600, 700))
    run("ade20k_847", tmp_path)
    assert assert_same_labels("ade20k_847", tmp_path, "validation") == 1
    with Image.open(folder / "images_detectron2" / "validation" / "ADE_val_00000001.jpg") as image:
        assert image.size == (597, 512)
    original = DATAMODULES["ade20k_847"](root=tmp_path, layout="original").source("validation")[0].image
    converted = DATAMODULES["ade20k_847"](root=tmp_path, layout="converted").source("validation")[0].image
    assert np.abs(original.astype(int) - converted).mean() < 3, "JPEG at quality 95 changes colours a little"
    small = write_original("ade20k_847", tmp_path / "small", count=1, splits=["validation"])
    run("ade20k_847", tmp_path / "small")
    copy = small / "images_detectron2" / "validation" / "ADE_val_00000001.jpg"
    assert copy.read_bytes() == next(small.glob("images/ADE/**/*.jpg")).read_bytes()


def test_prepare_keeps_16_bits(tmp_path: Path) -> None:
    folder = write_original("pascal_context_459", tmp_path)
    run("pascal_context_459", tmp_path)
    name = names_of("pascal_context_459", "val", 1)[0]
    with Image.open(folder / "annotations_detectron2" / "pc459_val" / f"{name}.tif") as picture:
        values = np.array(picture)
    labels = labels_of("pascal_context_459", "val", 0)
    assert values.dtype == np.uint16
    assert labels.max() > 255
    assert (values[labels == -1] == 65535).all()
    np.testing.assert_array_equal(values[labels >= 0], labels[labels >= 0])


class Full:
    """Stands for os.fsync on a disk that is full after some files."""

    def __init__(self, files: int, code: int = errno.ENOSPC) -> None:
        self.files, self.code = files, code

    def __call__(self, handle: int) -> None:
        """Take one more file, or fail."""
        self.files -= 1
        if self.files < 0:
            raise OSError(self.code, os.strerror(self.code))


def test_prepare_disk_full_leaves_whole_files_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_original("coco_stuff_171", tmp_path, count=5) / "stuffthingmaps_detectron2" / "val2017"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Full(3))  # the note of what was begun, and two labels
        with pytest.raises(
            PreparationError, match=r"disk is full .*2 of 5 label files are there, each whole"
        ) as caught:
            run("coco_stuff_171", tmp_path)
    assert str(folder) in str(caught.value)
    assert not leftovers(tmp_path)
    whole = sorted(folder.glob("*.png"))
    assert len(whole) == 2
    assert not (folder / MARKER_NAME).exists()
    assert DATAMODULES["coco_stuff_171"](root=tmp_path).found_layout("val2017") == "original"
    before = {path: path.stat().st_mtime_ns for path in whole}
    again = plan("coco_stuff_171", tmp_path)
    assert (again.there, len(again.jobs)) == (2, 3)
    assert prepare(again).written == 3
    assert {path: path.stat().st_mtime_ns for path in whole} == before
    assert assert_same_labels("coco_stuff_171", tmp_path, "val2017") == 5


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="other processes do not see the full disk")
def test_prepare_disk_full_in_processes_counts_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_original("coco_stuff_171", tmp_path, count=8)
    ready = plan("coco_stuff_171", tmp_path)
    monkeypatch.setattr(os, "fsync", Full(2))  # in each process
    with worker_pool(2) as spread, pytest.raises(PreparationError) as caught:
        prepare(ready, spread)
    whole = len(list(ready.folder.glob("*.png")))
    assert whole >= 2
    assert f"{whole} of 8 label files are there" in str(caught.value)
    assert not leftovers(tmp_path)


def test_prepare_disk_full_between_image_and_label_makes_both_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_original("ade20k_847", tmp_path, count=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Full(2))  # the note of what was begun, and an image
        with pytest.raises(PreparationError, match="0 of 2 label files"):
            run("ade20k_847", tmp_path)
    assert run("ade20k_847", tmp_path).written == 2
    assert assert_same_labels("ade20k_847", tmp_path, "validation") == 2


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_prepare_read_only_root_is_told(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_original("ade20k_150", tmp_path)
    before = snapshot(tmp_path)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    ready = plan("ade20k_150", tmp_path)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PreparationError, match="cannot be written to") as caught:
        prepare(ready)
    assert str(folder / "annotations_detectron2" / "validation") in str(caught.value)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for this user")
def test_prepare_folder_without_permission_is_told(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    folder.chmod(0o555)
    try:
        with pytest.raises(PreparationError, match="cannot be written to"):
            run("ade20k_150", tmp_path)
    finally:
        folder.chmod(0o755)


def test_prepare_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path) / "annotations_detectron2" / "validation"
    folder.mkdir(parents=True)
    (folder / f"{UNFINISHED}1").write_bytes(b"half")
    assert run("ade20k_150", tmp_path).written == 3
    assert not leftovers(tmp_path)


def test_prepare_damaged_label_is_named_and_the_others_are_made(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    bad = folder / "annotations" / "validation" / "ADE_val_00000002.png"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    report = run("ade20k_150", tmp_path)
    assert report.written == 2
    assert len(report.problems) == 1
    assert str(bad) in report.problems[0]
    assert read_marker(folder / "annotations_detectron2" / "validation") is None
    bad.write_bytes(good)
    assert run("ade20k_150", tmp_path) == PreparationReport(written=1, compared=0, problems=())
    assert read_marker(folder / "annotations_detectron2" / "validation") is not None


def test_prepare_refuses_ids_outside_the_map(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    bad = folder / "annotations" / "validation" / "ADE_val_00000002.png"
    Image.fromarray(np.full((32, 48), 151, np.uint8)).save(bad)
    report = run("ade20k_150", tmp_path)
    assert len(report.problems) == 1
    assert f"{bad}: expected labels" in report.problems[0]
    assert "got [151]" in report.problems[0]


@pytest.mark.parametrize("key", ["pascal_context_59", "ade20k_847", "cityscapes_19"])
def test_prepare_keeps_equal_files_of_other_tools(key: str, tmp_path: Path) -> None:
    write_original(key, tmp_path)
    write_converted(key, tmp_path)
    before = snapshot(tmp_path)
    assert run(key, tmp_path) == PreparationReport(written=0, compared=3, problems=())
    after = snapshot(tmp_path)
    assert all(after[path] == time for path, time in before.items() if path.is_file())
    assert {path.name for path in set(after) - set(before)} <= {MARKER_NAME, LOCK_NAME}
    assert plan(key, tmp_path).nothing_to_do


def test_prepare_refuses_files_in_the_other_order(tmp_path: Path) -> None:
    write_original("pascal_context_59", tmp_path)
    folder = write_converted("pascal_context_59", tmp_path, order="alphabetical")
    report = run("pascal_context_59", tmp_path)
    assert (report.written, report.compared, len(report.problems)) == (0, 0, 3)
    assert all("got the alphabetical one" in problem for problem in report.problems)
    assert read_marker(folder / "annotations_detectron2" / "pc59_val") is None


def test_prepare_refuses_differing_files_of_other_tools(tmp_path: Path) -> None:
    write_original("ade20k_150", tmp_path)
    folder = write_converted("ade20k_150", tmp_path) / "annotations_detectron2" / "validation"
    first, second, _ = sorted(folder.glob("*.png"))
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(first)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(second)
    report = run("ade20k_150", tmp_path)
    assert report.compared == 1
    assert f"{first}: " in report.problems[0]
    assert "pixels differ from the published labels" in report.problems[0]
    assert f"{second}: expected the size (32, 48), got (8, 8)" in report.problems[1]


def test_prepare_adds_to_files_when_the_data_set_has_grown(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path, count=2)
    run("ade20k_150", tmp_path)
    write_original("ade20k_150", tmp_path, count=3)
    assert run("ade20k_150", tmp_path) == PreparationReport(written=1, compared=0, problems=())
    marker = read_marker(folder / "annotations_detectron2" / "validation")
    assert marker is not None
    assert marker.files == 3


def test_prepare_note_of_something_else_raises(tmp_path: Path) -> None:
    folder = write_original("pascal_context_59", tmp_path) / "annotations_detectron2" / "pc59_val"
    folder.mkdir(parents=True)
    write_marker(folder, PreparedMarker(benchmark="pascal_context_59", split="val", files=3, order="alphabetical"))
    with pytest.raises(DataLayoutError, match=r"order: expected 'released', but .* 'alphabetical'"):
        plan("pascal_context_59", tmp_path)


def test_prepare_damaged_started_note_raises(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path) / "annotations_detectron2" / "validation"
    folder.mkdir(parents=True)
    (folder / STARTED_NAME).write_text('{"other": 1}', encoding="utf-8")
    with pytest.raises(DataLayoutError, match="expected a note of `data prepare`"):
        plan("ade20k_150", tmp_path)


def test_prepare_beside_another_run_raises(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path) / "annotations_detectron2" / "validation"
    folder.mkdir(parents=True)
    with FileLock(folder / LOCK_NAME), pytest.raises(PreparationError, match="another run"):
        run("ade20k_150", tmp_path)


def test_prepare_without_anything_to_convert_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PAS-21: nothing to prepare"):
        plan("pascal_voc_21", tmp_path)


@pytest.mark.skipif(SHARED is None, reason="SCAN_LIGHTNING_SHARED names no folder")
@pytest.mark.parametrize(
    ("key", "split", "count"),
    [
        ("ade20k_150", "validation", 3),
        ("ade20k_847", "training", 3),
        ("coco_stuff_171", "val2017", 2),
        ("pascal_voc_20", "val", 1),
    ],
)
def test_prepare_real_samples(key: str, split: str, count: int, samples: Path) -> None:
    assert run(key, samples, split).written == count
    assert assert_same_labels(key, samples, split) == count


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A copy of the real samples' images and labels, which can be written to."""
    source = Path(str(SHARED)) / "data" / "samples"
    for path in source.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path
