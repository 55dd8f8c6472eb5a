"""What is wrong with a data set on disk is found and named."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.miniature import CONVERTED_KEYS, write_converted, write_original
from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import BENCHMARK_KEYS, load_benchmark
from scan_lightning.data.checking import Finding, check_files, check_names, write_report
from scan_lightning.data.layout import DataLayoutError
from scan_lightning.data.marker import MARKER_NAME
from scan_lightning.data.parallel import worker_pool
from scan_lightning.data.preparation import plan_preparation, prepare
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.survey import SplitSurvey, select_benchmarks, splits_on_disk, survey_split

LABELS = "annotations/validation"
IMAGES = "images/validation"


def a150(root: Path) -> BenchmarkDataModule:
    """The module that most tests use."""
    return DATAMODULES["ade20k_150"](root=root)


def findings(module: BenchmarkDataModule, split: str | None = None) -> list[Finding]:
    """What is wrong with a split, but that a miniature has fewer images than were published."""
    survey = survey_split(module, split or module.eval_split)
    return [f for f in [*check_names(survey), *check_files(survey, module)] if f.kind != "count"]


@pytest.mark.parametrize("key", BENCHMARK_KEYS)
def test_check_finds_nothing_wrong_in_original_files(key: str, tmp_path: Path) -> None:
    write_original(key, tmp_path)
    module = DATAMODULES[key](root=tmp_path, layout="original")
    assert set(splits_on_disk(module)) == {module.train_split, module.eval_split}
    survey = survey_split(module, module.eval_split)
    assert (survey.layout, survey.layouts, survey.error) == ("original", ("original",), "")
    assert list(survey.pairs) == module.files(module.eval_split)
    assert len(survey.pairs) == 3
    assert findings(module) == []


@pytest.mark.parametrize("key", CONVERTED_KEYS)
def test_check_finds_nothing_wrong_in_converted_files(key: str, tmp_path: Path) -> None:
    write_converted(key, tmp_path)
    module = DATAMODULES[key](root=tmp_path, layout="converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of Pascal Context's two orders
        survey = survey_split(module, module.eval_split)
        assert (survey.layout, survey.layouts) == ("converted", ("converted",))
        assert len(survey.pairs) == 3
        assert findings(module) == []


def test_check_counts_against_the_published_number(tmp_path: Path) -> None:
    write_original("ade20k_150", tmp_path)
    wrong = check_names(survey_split(a150(tmp_path), "validation"))
    assert [(f.kind, f.severe) for f in wrong] == [("count", True)]
    assert "expected 2000 images, found 3" in wrong[0].text


@pytest.mark.parametrize(("key", "found", "severe"), [("pascal_context_59", 5104, False), ("ade20k_150", 1999, True)])
def test_check_count_that_is_usual_is_no_error(key: str, found: int, severe: bool) -> None:
    benchmark = load_benchmark(key)
    survey = SplitSurvey(
        benchmark=benchmark,
        split=benchmark.eval_split,
        layout="original",
        pairs=tuple([None] * found),  # type: ignore[arg-type]
        labels_may_lack=DATAMODULES[key].layouts["original"].may_lack_labels,
    )
    assert [(f.kind, f.severe) for f in check_names(survey)] == [("count", severe)]


def test_check_half_a_download_names_every_missing_file(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path, count=15)
    gone = sorted((folder / LABELS).iterdir())[2:]
    for path in gone:
        path.unlink()
    wrong = findings(a150(tmp_path))
    assert [(f.kind, f.file, f.severe) for f in wrong] == [("missing label", str(path), True) for path in gone]
    assert f"{gone[0]}: expected a label file" in wrong[0].text


def test_check_label_without_image(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    (folder / IMAGES / "ADE_val_00000002.jpg").unlink()
    wrong = findings(a150(tmp_path))
    assert [(f.kind, f.file) for f in wrong] == [
        ("missing image", str(folder / IMAGES / "ADE_val_00000002.jpg")),
    ]


def test_check_listed_image_that_is_missing(tmp_path: Path) -> None:
    folder = write_original("pascal_voc_20", tmp_path)
    name = (folder / "ImageSets/Segmentation/val.txt").read_text("utf-8").split()[1]
    (folder / "JPEGImages" / f"{name}.jpg").unlink()
    wrong = findings(DATAMODULES["pascal_voc_20"](root=tmp_path))
    assert [(f.kind, f.file) for f in wrong] == [("missing image", str(folder / "JPEGImages" / f"{name}.jpg"))]


def cut(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage", "kind"),
    [
        (f"{IMAGES}/ADE_val_00000002.jpg", cut, "damaged image"),
        (f"{LABELS}/ADE_val_00000002.png", cut, "damaged label"),
        (f"{IMAGES}/ADE_val_00000002.jpg", lambda path: path.write_bytes(b""), "damaged image"),
        (f"{LABELS}/ADE_val_00000002.png", lambda path: path.write_text("<html>"), "damaged label"),
        (f"{LABELS}/ADE_val_00000002.png", lambda path: Image.new("RGB", (48, 32)).save(path), "damaged label"),
        (f"{LABELS}/ADE_val_00000002.png", lambda path: Image.new("L", (48, 31)).save(path), "size"),
        (f"{LABELS}/ADE_val_00000002.png", lambda path: Image.new("L", (48, 32), 151).save(path), "ids"),
    ],
)
def test_check_names_the_bad_file(file: str, damage: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    path = write_original("ade20k_150", tmp_path) / file
    damage(path)
    wrong = findings(a150(tmp_path))
    assert [(f.benchmark, f.split, f.kind, f.file, f.severe) for f in wrong] == [
        ("a150", "validation", kind, str(path), True)
    ]
    assert wrong[0].text.startswith(f"{path}: expected")


def test_check_takes_labels_of_stored_pixels_as_they_load(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned clockwise by 90 degrees
    path = folder / IMAGES / "ADE_val_00000002.jpg"
    Image.open(path).save(path, exif=turned)
    assert a150(tmp_path).source("validation")[1].image.shape == (32, 48, 3)
    assert findings(a150(tmp_path)) == []


def test_check_says_everything_that_is_wrong_with_a_pair(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    cut(folder / IMAGES / "ADE_val_00000001.jpg")
    Image.fromarray(np.full((5, 5), 200, np.uint8)).save(folder / LABELS / "ADE_val_00000001.png")
    Image.fromarray(np.full((5, 5), 200, np.uint8)).save(folder / LABELS / "ADE_val_00000003.png")
    kinds = [(f.kind, Path(f.file).stem[-1]) for f in findings(a150(tmp_path))]
    assert kinds == [("damaged image", "1"), ("ids", "1"), ("ids", "3"), ("size", "3")]


def test_check_ids_of_the_other_benchmarks(tmp_path: Path) -> None:
    coco = write_original("coco_stuff_171", tmp_path) / "stuffthingmaps" / "val2017"
    first = sorted(coco.iterdir())[0]
    Image.fromarray(np.full((32, 48), 11, np.uint8)).save(first)  # "street sign", which never occurs
    wrong = findings(DATAMODULES["coco_stuff_171"](root=tmp_path))
    assert [(f.kind, f.file) for f in wrong] == [("ids", str(first))]
    assert "got [11]" in wrong[0].text


def test_check_in_processes_equals_one_process(tmp_path: Path) -> None:
    folder = write_original("ade20k_847", tmp_path, count=6)
    cut(next(folder.glob("images/ADE/validation/**/*_seg.png")))
    module = DATAMODULES["ade20k_847"](root=tmp_path)
    survey = survey_split(module, "validation")
    steps: list[int] = []
    with worker_pool(2) as spread:
        spread_findings = check_files(survey, module, spread, advance=lambda: steps.append(1))
    assert spread_findings == check_files(survey, module)
    assert [f.kind for f in spread_findings] == ["damaged label"]
    assert len(steps) == 6


def test_check_prepared_files_that_were_deleted_are_missing(tmp_path: Path) -> None:
    write_original("coco_stuff_171", tmp_path, count=100, splits=["val2017"], size=(8, 8))
    plan = plan_preparation(load_benchmark("coco_stuff_171"), root=tmp_path, split="val2017")
    prepare(plan)
    module = DATAMODULES["coco_stuff_171"](root=tmp_path, layout="converted")
    assert check_names(survey_split(module, "val2017"))[:-1] == []
    gone = plan.jobs[7].label
    gone.unlink()  # one of 100, which is usual where no note says how many there are
    wrong = check_names(survey_split(module, "val2017"))
    assert [(f.kind, f.file, f.severe) for f in wrong[:1]] == [("missing label", str(gone), True)]
    (plan.folder / MARKER_NAME).unlink()
    wrong = check_names(survey_split(module, "val2017"))
    assert [(f.kind, f.severe) for f in wrong[:1]] == [("missing label", False)]


def test_check_damaged_note_is_told(tmp_path: Path) -> None:
    write_original("ade20k_150", tmp_path)
    folder = write_converted("ade20k_150", tmp_path)
    note = folder / "annotations_detectron2" / "validation" / MARKER_NAME
    note.write_text("{", encoding="utf-8")
    wrong = findings(a150(tmp_path))
    assert [f.kind for f in wrong] == ["layout"]
    assert str(note) in wrong[0].text


def test_survey_without_the_folders_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "ADEChallengeData2016").mkdir()
    (tmp_path / "ADEChallengeData2016" / "images.zip").write_bytes(b"")
    survey = survey_split(a150(tmp_path), "validation")
    assert survey.layout is None
    assert "unpack images.zip first" in survey.error
    assert [f.kind for f in check_names(survey)] == ["layout"]
    assert check_files(survey, a150(tmp_path)) == []


def test_survey_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path / "data")
    outside = tmp_path / "outside.png"
    label = folder / LABELS / "ADE_val_00000001.png"
    label.rename(outside)
    label.symlink_to(outside)
    wrong = findings(a150(tmp_path / "data"))
    assert [f.kind for f in wrong] == ["layout"]
    assert f"got a link to {outside}" in wrong[0].text


def test_survey_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = write_original("pascal_voc_20", tmp_path) / "ImageSets/Segmentation/val.txt"
    path.write_bytes(b"2000_\xff")
    module = DATAMODULES["pascal_voc_20"](root=tmp_path)
    assert [(f.kind, f.text.split(": ")[0]) for f in findings(module)] == [("layout", str(path))]
    path.write_text("\n", "utf-8")
    assert ["got an empty list" in f.text for f in findings(module)] == [True]


def test_survey_unknown_split_raises(tmp_path: Path) -> None:
    write_original("ade20k_150", tmp_path)
    with pytest.raises(ValueError, match="split: expected one of training, validation, got 'val'"):
        survey_split(a150(tmp_path), "val")


def test_splits_on_disk_needs_a_list_where_images_are_shared(tmp_path: Path) -> None:
    folder = write_original("pascal_voc_20", tmp_path)
    module = DATAMODULES["pascal_voc_20"](root=tmp_path)
    assert splits_on_disk(module) == ["train", "val"]
    assert splits_on_disk(module, ["val", "trainval"]) == ["val"]
    (folder / "ImageSets/Segmentation/train.txt").unlink()
    assert splits_on_disk(module) == ["val"]
    assert splits_on_disk(a150(tmp_path)) == []


def test_select_benchmarks_by_name_or_by_what_is_on_disk(tmp_path: Path) -> None:
    named = select_benchmarks(["pc59", "a150", "ade20k_150"], root=tmp_path)
    assert [benchmark.short for benchmark in named] == ["pc59", "a150"]
    with pytest.raises(DataLayoutError, match="expected at least one of the folders ADE20K_2021_17_01"):
        select_benchmarks([], root=tmp_path)
    write_original("pascal_voc_20", tmp_path)
    assert [benchmark.short for benchmark in select_benchmarks([], root=tmp_path)] == ["voc20", "voc21"]
    with pytest.raises(ValueError, match="expected one of a150"):
        select_benchmarks(["a15"], root=tmp_path)


def test_write_report_as_json_and_csv(tmp_path: Path) -> None:
    folder = write_original("ade20k_150", tmp_path)
    cut(folder / LABELS / "ADE_val_00000002.png")
    module = a150(tmp_path)
    survey = survey_split(module, "validation")
    wrong = [*check_names(survey), *check_files(survey, module)]
    for suffix in (".json", ".csv"):
        write_report(tmp_path / "new" / f"report{suffix}", root=tmp_path, surveys=[survey], findings=wrong)
    content = json.loads((tmp_path / "new" / "report.json").read_text("utf-8"))
    assert content["splits"] == [
        {"benchmark": "a150", "split": "validation", "layout": "original", "images": 3, "published": 2000}
    ]
    assert [entry["kind"] for entry in content["findings"]] == ["count", "damaged label"]
    with (tmp_path / "new" / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["file"]) for row in rows] == [(f.kind, f.file) for f in wrong]


def test_write_report_with_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    finding = Finding(benchmark="a150", split="validation", kind="ids", file=name, text=name)
    write_report(tmp_path / "r.json", root=tmp_path, surveys=[], findings=[finding])
    assert b"\xff.png" in (tmp_path / "r.json").read_bytes()


def test_write_report_of_another_kind_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"report: expected a file name that ends in \.json or \.csv, got report\.txt"):
        write_report(Path("report.txt"), root=tmp_path, surveys=[], findings=[])
