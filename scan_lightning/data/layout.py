"""Where the files of a data set in folders are, with errors that name what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scan_lightning.data.images import IMAGE_SUFFIXES

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
"""File name endings of label maps, in the order in which they are looked for."""


class DataLayoutError(ValueError):
    """A data set on disk is not laid out as expected; the message names the folder, what was wanted and what came."""


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """An image and its label map on disk.

    Attributes:
        image: The image's path.
        label: The label map's path, or None where there is no truth.
    """

    image: Path
    label: Path | None


class FolderLayout:
    """Finds images and label maps below a root (see `FolderDataModule` for the layout).

    Args:
        root: The data set's folder. Files outside it, also those that a link inside it points to, are refused.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def list_pairs(self, name: str, *, with_labels: bool = True) -> list[ImagePair]:
        """Find the files of a split.

        Args:
            name: The split's name.
            with_labels: Whether each image needs a label map.

        Returns:
            Images in the order of their names, each with its label map, or None if they are not wanted.

        Raises:
            FileNotFoundError: If a folder or a label map is missing.
            ValueError: If a folder has no image or two of one name, or a path leaves the root.
        """
        folder = self.root / "images" / name
        flat = not folder.is_dir() and any(_is_image(path) for path in _entries(self.root / "images"))
        images = self._images(folder.parent if flat else folder)
        if flat:
            images = self._listed(images, name)
        labels = self.root / "labels" if flat else self.root / "labels" / name
        return [
            ImagePair(image=image, label=self._label(labels, image) if with_labels else None)
            for image in images.values()
        ]

    def _images(self, folder: Path) -> dict[str, Path]:
        """List the images of a folder by their names without ending."""
        images: dict[str, Path] = {}
        for path in _entries(folder):
            if not _is_image(path):
                continue
            if path.stem in images:
                raise ValueError(f"{path}: expected one image of each name, but there is {images[path.stem].name} too")
            images[path.stem] = self.inside(path)
        if not images:
            raise ValueError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
        return images

    def _listed(self, images: dict[str, Path], name: str) -> dict[str, Path]:
        """Keep the images that the file of a split lists, all of them where the data set has no such files."""
        if not (self.root / "splits").is_dir():
            return images
        path = self.root / "splits" / f"{name}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected the names of the images of split {name!r}, found no such file")
        stems = [line.strip() for line in self.inside(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        for stem in stems:
            if stem not in images:
                raise ValueError(f"{path}: expected names of images without ending, got {stem!r}, which has no image")
        if not stems or len(set(stems)) < len(stems):
            raise ValueError(f"{path}: expected at least one name and none twice, got {len(stems)} lines")
        return {stem: images[stem] for stem in sorted(stems)}

    def _label(self, folder: Path, image: Path) -> Path:
        """Find the label map of an image."""
        for suffix in LABEL_SUFFIXES:
            path = folder / f"{image.stem}{suffix}"
            if path.exists():
                return self.inside(path)
        raise FileNotFoundError(
            f"{image}: expected a label map {folder / image.stem}{LABEL_SUFFIXES[0]}, found no such file"
        )

    def inside(self, path: Path) -> Path:
        """Refuse a path that leaves the data set's folder.

        Args:
            path: A path below the root.

        Returns:
            The same path.

        Raises:
            ValueError: If it is a link to somewhere outside the root.
        """
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"{path}: expected a file inside {self.root}, got a link to {path.resolve()}")
        return path


def _entries(folder: Path) -> list[Path]:
    """List a folder in the order of names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of images, found no such folder")
    return sorted(folder.iterdir())


def _is_image(path: Path) -> bool:
    """Tell by the name; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
