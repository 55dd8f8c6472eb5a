"""Converting a benchmark's label files once: what is left to do, and doing it so that it can be broken off anywhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from scan_lightning.data.benchmark_module import BenchmarkDataModule
from scan_lightning.data.benchmarks import Benchmark, load_benchmark
from scan_lightning.data.conversion import Conversion, Job
from scan_lightning.data.layout import DataLayoutError, ImagePair
from scan_lightning.data.marker import MARKER_NAME, PreparedMarker, read_marker, write_marker
from scan_lightning.data.parallel import ParallelMap
from scan_lightning.data.registry import DATAMODULES
from scan_lightning.data.vocabulary import read_json, write_json
from scan_lightning.files import remove_unfinished

STARTED_NAME = ".scan_lightning_started.json"
"""Note in a folder of label files that this module began to write and has not finished."""
LOCK_NAME = ".scan_lightning.lock"
"""File by which one run at a time writes into a folder."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class PreparationError(ValueError):
    """Label files cannot be written; the message says where, why and how far it came."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is to be done for one split.

    Attributes:
        conversion: How.
        folder: Folder of the label files.
        marker: The note that says, in the end, what they are.
        jobs: The files that are still to be made or to be compared.
        there: Number of files that earlier runs have made.
        finished: Whether the note is there too.
    """

    conversion: Conversion
    folder: Path
    marker: PreparedMarker
    jobs: tuple[Job, ...]
    there: int
    finished: bool

    @property
    def nothing_to_do(self) -> bool:
        """Whether all files and the note are there."""
        return self.finished and not self.jobs


@dataclass(frozen=True, kw_only=True)
class PreparationReport:
    """What was done for one split.

    Attributes:
        written: Number of label files that were written.
        compared: Number of label files of other tools that were found equal and kept.
        problems: What was wrong with files, one text per file.
    """

    written: int
    compared: int
    problems: tuple[str, ...]


def plan_preparation(benchmark: Benchmark, *, root: Path, split: str) -> Preparation:
    """Find out what is to be done for a split; nothing is written.

    Args:
        benchmark: Which one. Of Pascal Context 60 the files of Pascal Context 59 are made, which it reads.
        root: The data root, or the data set's own folder.
        split: Published name of the split.

    Returns:
        The plan.

    Raises:
        DataLayoutError: If published files are missing, or a note says that the folder holds something else.
        ValueError: If there is no such split, or the benchmark has no converted files.
    """
    if benchmark.converted_as is None:
        raise ValueError(f"{benchmark.paper_name}: nothing to prepare, its published label files hold the labels")
    if split not in benchmark.splits:
        raise ValueError(f"split: expected one of {', '.join(benchmark.splits)}, got {split!r}")
    module = DATAMODULES[benchmark.converted_as](root=root, layout="original")
    files = load_benchmark(benchmark.converted_as)
    source = module.source(split)
    folder = module.layouts["converted"].label_folder(module.folder, split)
    marker = PreparedMarker(
        benchmark=files.key, split=split, files=len(source), order="released", shorter_side=source.shorter_side
    )
    notes = [note for note in (read_marker(folder), _read_started(folder)) if note is not None]
    for note in notes:
        _check_note(note, marker, folder)
    jobs = _jobs(module, split, source.pairs)
    present = _present(jobs)
    conversion = Conversion(
        label_table=source.label_table,
        reader=source.reader,
        shorter_side=source.shorter_side,
        ignore_value=files.ignore_value,
        alphabetical_table=(
            files.label_table(labels="converted", order="alphabetical") if files.ordered_files else None
        ),
    )
    left = [job for job in jobs if job.label not in present]
    if not notes:
        left = [replace(job, compare=job.label in present) for job in jobs]
    return Preparation(
        conversion=conversion,
        folder=folder,
        marker=marker,
        jobs=tuple(left),
        there=len(jobs) - len(left),
        finished=read_marker(folder) == marker,
    )


def prepare(
    preparation: Preparation, spread: ParallelMap = map, *, advance: Callable[[], None] = lambda: None
) -> PreparationReport:
    """Make the files of a plan. Each appears whole or not at all, so that a run can be broken off and repeated.

    Files that other tools have left in the folder are compared with the published labels and kept; those that differ
    are problems. The note is written when there is no problem.

    Args:
        preparation: The plan.
        spread: Spreads the work, see `worker_pool`.
        advance: Called after each file.

    Returns:
        What was done.

    Raises:
        PreparationError: If a file cannot be written, or another run is writing there.
    """
    if preparation.nothing_to_do:
        return PreparationReport(written=0, compared=0, problems=())
    written = compared = 0
    problems: list[str] = []
    try:
        with _alone_in(preparation.folder):
            _begin(preparation)
            for outcome in spread(preparation.conversion, preparation.jobs):
                written += outcome.written
                compared += not outcome.written and not outcome.problem
                problems += [outcome.problem] if outcome.problem else []
                advance()
            if not problems:
                write_marker(preparation.folder, preparation.marker)
                (preparation.folder / STARTED_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise PreparationError(_explain(error, preparation)) from error
    return PreparationReport(written=written, compared=compared, problems=tuple(problems))


def _jobs(module: BenchmarkDataModule, split: str, pairs: Sequence[ImagePair]) -> list[Job]:
    """Say for each published pair what is to be written."""
    original, converted = module.layouts["original"], module.layouts["converted"]
    labels_from = original.label_folder(module.folder, split)
    labels_to = converted.label_folder(module.folder, split)
    images_to = converted.image_folder(module.folder, split)
    jobs = []
    for pair in pairs:
        if pair.label is None:
            continue
        name = pair.label.name.removesuffix(original.label_suffix)
        place = labels_to / pair.label.parent.relative_to(labels_from) if converted.nested else labels_to
        shared = converted.images == original.images
        image = None if shared else images_to / f"{name}{converted.image_suffix}"
        jobs.append(Job(pair=pair, label=place / f"{name}{converted.label_suffix}", image=image))
    return jobs


def _present(jobs: Sequence[Job]) -> set[Path]:
    """Give the label files that are there, together with their images; each folder is listed once."""
    targets = {path for job in jobs for path in (job.label, job.image) if path is not None}
    there = {
        folder / name
        for folder in {path.parent for path in targets}
        if folder.is_dir()
        for name in os.listdir(folder)  # noqa: PTH208, names alone are wanted, of up to 118,287 files
    }
    return {job.label for job in jobs if job.label in there and (job.image is None or job.image in there)}


def _begin(preparation: Preparation) -> None:
    """Make the folders, clear what a killed run left, and note what the files will be."""
    folders = {path.parent for job in preparation.jobs for path in (job.label, job.image) if path is not None}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
    if not any(job.compare for job in preparation.jobs):
        write_json(asdict(preparation.marker), preparation.folder / STARTED_NAME)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise PreparationError(f"{folder}: another run of `data prepare` is writing there, wait for its end") from error
    try:
        yield
    finally:
        lock.release()


def _read_started(folder: Path) -> PreparedMarker | None:
    """Read the note of a run that was broken off."""
    path = folder / STARTED_NAME
    if not path.is_file():
        return None
    try:
        return PreparedMarker(**read_json(path))
    except TypeError as error:
        raise DataLayoutError(f"{path}: expected a note of `data prepare`, got something else; delete it") from error


def _check_note(note: PreparedMarker, expected: PreparedMarker, folder: Path) -> None:
    """Raise where files that are there are something else; their number may have grown."""
    for name, wanted in asdict(replace(expected, files=note.files)).items():
        came = getattr(note, name)
        if came != wanted:
            raise DataLayoutError(
                f"{folder}: {name}: expected {wanted!r}, but {MARKER_NAME} says that its files have {came!r}; "
                "move the folder away to make them anew"
            )


def _explain(error: OSError, preparation: Preparation) -> str:
    """Say what kept files from being written, and how far it came."""
    reason = error.strerror or str(error)
    place = error.filename or preparation.folder
    total = preparation.there + len(preparation.jobs)
    there = preparation.there + len(_present(preparation.jobs))  # other processes may have made more than they told
    progress = f"{there} of {total} label files are there, each whole"
    if error.errno in _FULL:
        return f"{preparation.folder}: the disk is full ({reason}); {progress}: make room and run the command again"
    if error.errno in _CLOSED:
        return f"{place}: cannot be written to ({reason}); {progress}"
    return f"{place}: {reason}; {progress}: run the command again to go on"
