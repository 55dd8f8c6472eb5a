"""Where the files of a benchmark are, in its original and in its converted layout."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scan_lightning.data.images import read_label
from scan_lightning.data.layout import DataLayoutError, ImagePair
from scan_lightning.data.source import LabelReader

TOLERATED_SHARE = 0.01
"""Share of label files that may be missing where the field's preparation leaves some out."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """One layout of a benchmark. In paths, ``{split}`` stands for the split's name.

    Attributes:
        images: Folder of the images, below the data set's folder.
        labels: Folders of the label files; the first that exists is read.
        image_suffix: Ending of image files.
        label_suffix: Ending of label files; what stands before the endings joins image and label.
        nested: Whether files lie in folders of folders.
        shared: Whether the image folder holds images of several splits and of none.
        lists: For shared folders the files that list a split's images; the first that exists is read.
        may_lack_labels: Whether up to one label file in a hundred may be missing: preparation scripts write none for
            images whose pixels are all ignored, and Pascal Context's skip images without a published label.
        reader: Reads the values in a label file.
    """

    images: str
    labels: tuple[str, ...]
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    nested: bool = False
    shared: bool = False
    lists: tuple[str, ...] = ()
    may_lack_labels: bool = False
    reader: LabelReader = read_label

    def image_folder(self, folder: Path, split: str) -> Path:
        """Give the folder of the images."""
        return folder / self.images.format(split=split)

    def label_folder(self, folder: Path, split: str) -> Path:
        """Give the folder of the label files: the first that exists, else the first."""
        candidates = [folder / labels.format(split=split) for labels in self.labels]
        return next((path for path in candidates if path.is_dir()), candidates[0])

    def exists(self, folder: Path, split: str, *, with_labels: bool = True) -> bool:
        """Tell whether the folder of the images is there, and that of the labels where they are wanted.

        Nested folders are looked into, since several kinds of files lie in them side by side.
        """
        places = [(self.image_folder(folder, split), self.image_suffix)]
        if with_labels:
            places.append((self.label_folder(folder, split), self.label_suffix))
        return all(place.is_dir() and (not self.nested or _has_file(place, suffix)) for place, suffix in places)

    def list_file(self, folder: Path, split: str) -> Path | None:
        """Give the file that lists the images: the first that exists; None where there is none."""
        candidates = [folder / path.format(split=split) for path in self.lists]
        return next((path for path in candidates if path.is_file()), None)

    def tops(self, split: str) -> set[str]:
        """Give the first parts of all paths, by which the data set's folder is known."""
        return {Path(path.format(split=split)).parts[0] for path in (self.images, *self.labels)}


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """What is on disk of a split, and what should be.

    Attributes:
        names: Names without ending of the images that the split should have: those that are listed, and those of files
            in folders of its own.
        images: Paths of images, as text, by name; in a shared folder also those of others.
        labels: The same of label files.
    """

    names: frozenset[str]
    images: Mapping[str, str]
    labels: Mapping[str, str]


def scan_split(folder: Path, layout: FileLayout, split: str) -> SplitFiles:
    """List the files of a split, reading each folder once and looking at no file.

    Args:
        folder: The data set's folder. A link inside it that leads out of it is refused.
        layout: Where to look.
        split: The split's name.

    Returns:
        The files; some may be missing.

    Raises:
        DataLayoutError: If a folder or a list is missing or empty, or a link leads out.
    """
    images = scan_folder(layout.image_folder(folder, split), layout.image_suffix, layout, root=folder)
    listed = _read_list(folder, layout, split)
    labels = scan_folder(layout.label_folder(folder, split), layout.label_suffix, layout, root=folder)
    own_labels = "{split}" in layout.labels[0] or listed is None
    names = {*(listed or ()), *(labels if own_labels else ()), *(() if layout.shared else images)}
    return SplitFiles(names=frozenset(names), images=images, labels=labels)


def find_pairs(folder: Path, layout: FileLayout, split: str, *, with_labels: bool = True) -> list[ImagePair]:
    """Find the files of a split, reading each folder once and looking at no file.

    Args:
        folder: The data set's folder. A link inside it that leads out of it is refused.
        layout: Where to look.
        split: The split's name.
        with_labels: Whether to look for labels too; without them images alone are given.

    Returns:
        Images in the order of their names, each with its label file or None.

    Raises:
        DataLayoutError: If a folder is missing or empty, files are missing, a label has no image or a link leads out.
    """
    if not with_labels and not (layout.shared and layout.list_file(folder, split) is None):
        images = scan_folder(layout.image_folder(folder, split), layout.image_suffix, layout, root=folder)
        listed = _read_list(folder, layout, split) or set(images)
        _raise_if_missing(listed, images, layout.image_folder(folder, split), layout.image_suffix, "images")
        return [ImagePair(image=Path(images[name]), label=None) for name in sorted(listed)]
    found = scan_split(folder, layout, split)
    names, labels = found.names, found.labels
    place = layout.label_folder(folder, split)
    orphans = sorted(name for name in names if name in labels and name not in found.images)
    if orphans:
        raise DataLayoutError(
            f"{labels[orphans[0]]}: a label file without an image, expected "
            f"{layout.image_folder(folder, split) / (orphans[0] + layout.image_suffix)}"
            + (f"; {len(orphans)} label files have no image" if len(orphans) > 1 else "")
        )
    _raise_if_missing(names, found.images, layout.image_folder(folder, split), layout.image_suffix, "images")
    lacking = sum(name not in labels for name in names)
    if not layout.may_lack_labels or lacking > TOLERATED_SHARE * len(names):
        _raise_if_missing(names, labels, place, layout.label_suffix, "label files")
    return [
        ImagePair(image=Path(found.images[name]), label=Path(labels[name]) if with_labels else None)
        for name in sorted(names)
        if name in labels
    ]


def scan_folder(folder: Path, suffix: str, layout: FileLayout, *, root: Path) -> dict[str, str]:
    """List the files of a folder by their names without ending.

    Args:
        folder: The folder; hidden files in it are passed over.
        suffix: The files' ending.
        layout: Tells whether to go down into folders.
        root: The data set's folder, out of which no link may lead.

    Returns:
        Paths, as text, by name without ending; at least one.

    Raises:
        DataLayoutError: If the folder is missing or has no such file, a name occurs twice or a link leads out.
    """
    if not folder.is_dir():
        raise DataLayoutError(f"{folder}: expected a folder of *{suffix} files, {what_is_there(folder)}")
    home = root.resolve()
    _refuse_outside(folder, home)
    found: dict[str, str] = {}
    for entry in _walk(folder, suffix, nested=layout.nested, home=home):
        name = entry.name.removesuffix(suffix)
        if name in found:
            raise DataLayoutError(f"{entry.path}: expected one file of each name, but there is {found[name]} too")
        found[name] = entry.path
    if not found:
        raise DataLayoutError(f"{folder}: expected *{suffix} files, {what_is_there(folder)}")
    return found


def what_is_there(folder: Path) -> str:
    """Say what stands where a folder was looked for, and whether something there wants unpacking.

    Args:
        folder: The folder that was looked for; it may be missing, a file, or without the files looked for.

    Returns:
        A clause for an error message.
    """
    if folder.is_file():
        what = "an archive: unpack it and give the folder" if _is_archive(folder.name) else "a file"
        return f"found {what}"
    present = next(place for place in (folder, *folder.parents) if place.is_dir())
    names = sorted(entry.name for entry in os.scandir(present) if not entry.name.startswith("."))
    text = f"found in {present}: {_some(names) or 'nothing'}" if present == folder else ""
    text = text or f"found no such folder; in {present} there is: {_some(names) or 'nothing'}"
    archives = [name for name in names if _is_archive(name)]
    return text + (f"; unpack {_some(archives)} first" if archives else "")


def _walk(folder: Path | str, suffix: str, *, nested: bool, home: Path) -> Iterator[os.DirEntry[str]]:
    """Give the files with an ending, going down where files are nested, but not into the folders of single images."""
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_symlink():
            _refuse_outside(Path(entry.path), home)
        if entry.name.endswith(suffix) and entry.is_file():
            yield entry
    if nested:
        stems = {entry.name.rpartition(".")[0] for entry in entries if not entry.is_dir()}
        for entry in entries:
            if entry.is_dir() and entry.name not in stems:
                yield from _walk(entry.path, suffix, nested=True, home=home)


def _has_file(folder: Path, suffix: str) -> bool:
    """Tell whether a file with an ending lies somewhere below a folder."""
    return any(name.endswith(suffix) for _, _, names in os.walk(folder) for name in names)


def _refuse_outside(path: Path, home: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(home):
        raise DataLayoutError(f"{path}: expected a path inside {home}, got a link to {target}")


def _read_list(folder: Path, layout: FileLayout, split: str) -> set[str] | None:
    """Read the names of a split's images, None where nothing lists them."""
    path = layout.list_file(folder, split)
    if path is None:
        if layout.shared and "{split}" not in layout.labels[0]:
            wanted = " or ".join(str(folder / path.format(split=split)) for path in layout.lists)
            raise DataLayoutError(f"{wanted}: expected the list of the images of split {split!r}, found no such file")
        return None
    _refuse_outside(path, folder.resolve())
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataLayoutError(f"{path}: expected names of images in UTF-8: {error}") from error
    names = {Path(words[0]).stem for words in lines if words}  # some lists give the paths of image and label
    if not names:
        raise DataLayoutError(f"{path}: expected names of images, got an empty list")
    return names


def _raise_if_missing(names: Collection[str], there: Collection[str], place: Path, suffix: str, what: str) -> None:
    missing = sorted(name for name in names if name not in there)
    if missing:
        paths = ", ".join(str(place / f"{name}{suffix}") for name in missing[:_LISTED])
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise DataLayoutError(f"{len(missing)} of {len(names)} {what} are missing: {paths}{more}")


def _is_archive(name: str) -> bool:
    return name.lower().endswith(_ARCHIVES)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
