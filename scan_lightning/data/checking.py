"""Looking for what is wrong with a benchmark on disk: counts, missing, damaged and contradictory files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.images import ImageFileError, read_image, read_image_of
from scan_lightning.data.layout import ImagePair
from scan_lightning.data.parallel import ParallelMap
from scan_lightning.data.source import FolderSource, LabelReader
from scan_lightning.data.survey import SplitSurvey
from scan_lightning.files import write_whole

Kind = Literal["layout", "count", "missing image", "missing label", "damaged image", "damaged label", "size", "ids"]
"""What can be wrong."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong, or worth knowing.

    Attributes:
        benchmark: Short name of the benchmark.
        split: Published name of the split.
        kind: What is wrong.
        file: The file or folder.
        text: The whole message.
        severe: Whether it is wrong; else it is usual and only told.
    """

    benchmark: str
    split: str
    kind: Kind
    file: str
    text: str
    severe: bool = True


@dataclass(frozen=True, kw_only=True)
class PairCheck:
    """Opens an image and its label file and says what is wrong; it can be sent to other processes.

    Attributes:
        label_table: For each value in a label file its label, see `FolderSource`.
        reader: Reads a label file.
    """

    label_table: NDArray[np.int64]
    reader: LabelReader

    def __call__(self, pair: ImagePair) -> list[tuple[Kind, Path, str]]:
        """Look at a pair.

        Args:
            pair: The files.

        Returns:
            What is wrong, which file and the message; empty if nothing.
        """
        wrong: list[tuple[Kind, Path, str]] = []
        image = values = None
        try:
            image = read_image(pair.image)
        except (ImageFileError, OSError) as error:
            wrong.append(("damaged image", pair.image, str(error)))
        if pair.label is None:
            return wrong
        try:
            values = self.reader(pair.label)
        except (ImageFileError, OSError) as error:
            return [*wrong, ("damaged label", pair.label, str(error))]
        try:
            FolderSource([], label_table=self.label_table, reader=lambda _: values).read_labels(pair.label)
        except ImageFileError as error:
            wrong.append(("ids", pair.label, str(error)))
        if image is not None and values.shape != image.shape[:2]:
            image = read_image_of(pair.image, values.shape)
        if image is not None and values.shape != image.shape[:2]:
            text = f"{pair.label}: expected the size of its image {pair.image}, {image.shape[:2]}, got {values.shape}"
            wrong.append(("size", pair.label, text))
        return wrong


def check_names(survey: SplitSurvey) -> list[Finding]:
    """Judge what the names of files tell: counts against the published ones, images and labels without each other.

    Args:
        survey: Of the split.

    Returns:
        What is wrong or worth knowing.
    """
    findings = [
        _finding(survey, "missing image", path, f"{path}: expected an image, found no such file")
        for path in survey.missing_images
    ]
    findings += [
        _finding(
            survey,
            "missing label",
            path,
            f"{path}: expected a label file, found no such file",
            severe=not survey.labels_may_lack,
        )
        for path in survey.missing_labels
    ]
    if survey.error and not any(finding.severe for finding in findings):
        findings.append(_finding(survey, "layout", Path(survey.benchmark.folder), survey.error))
    found = len(survey.pairs)
    if found != survey.published and survey.layout is not None:
        text = f"{survey.benchmark.title}, split {survey.split}: expected {survey.published} images, found {found}"
        usual = survey.labels_may_lack and abs(found - survey.published) <= survey.published // 100
        findings.append(_finding(survey, "count", Path(survey.benchmark.folder), text, severe=not usual))
    return findings


def check_files(
    survey: SplitSurvey,
    module: BenchmarkDataModule,
    spread: ParallelMap = map,
    *,
    advance: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """Open all images and label files: damaged files, sizes that differ, ids outside the map.

    Args:
        survey: Of the split.
        module: Of the benchmark; the one that was surveyed.
        spread: Spreads the work, see `worker_pool`.
        advance: Called after each pair.

    Returns:
        What is wrong.
    """
    if survey.layout is None:
        return []
    check = PairCheck(
        label_table=module.benchmark.label_table(labels=survey.layout, order=module.order),
        reader=module.layouts[survey.layout].reader,
    )
    findings = []
    for wrong in spread(check, survey.pairs):
        findings += [_finding(survey, kind, path, text) for kind, path, text in wrong]
        advance()
    return findings


def write_report(path: Path, *, root: Path, surveys: Sequence[SplitSurvey], findings: Sequence[Finding]) -> None:
    """Write what was found to a file.

    Args:
        path: Ends in ``.json`` (splits and findings) or ``.csv`` (a line per finding); its folder is made.
        root: The data root.
        surveys: Of the splits that were checked.
        findings: What was found.

    Raises:
        ValueError: If the ending is another.
        OSError: If it cannot be written.
    """
    check_report_path(path)
    if path.suffix == ".json":
        splits = [
            {
                "benchmark": survey.benchmark.short,
                "split": survey.split,
                "layout": survey.layout,
                "images": len(survey.pairs),
                "published": survey.published,
            }
            for survey in surveys
        ]
        content = {"root": str(root), "splits": splits, "findings": [vars(finding) for finding in findings]}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    else:
        lines = StringIO()
        writer = csv.DictWriter(lines, list(Finding.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(finding) for finding in findings)
        text = lines.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode("utf-8", "surrogateescape"))


def check_report_path(path: Path) -> None:
    """Raise ValueError unless a report can have this name."""
    if path.suffix not in (".json", ".csv"):
        raise ValueError(f"report: expected a file name that ends in .json or .csv, got {path}")


def _finding(survey: SplitSurvey, kind: Kind, path: Path, text: str, *, severe: bool = True) -> Finding:
    return Finding(
        benchmark=survey.benchmark.short, split=survey.split, kind=kind, file=str(path), text=text, severe=severe
    )
