"""The index of mask-text pairs: which mask of which image goes with which text (spec section 6).

A folder of Parquet files, each of which covers some images, and ``index.json``. Images are not copied: a pair names its
image's path relative to a root. Only images that no file holds, generated ones for instance, lie beside the index.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scan_lightning.data.run_lengths import decode_mask, encode_mask
from scan_lightning.data.vocabulary import read_json, write_json
from scan_lightning.files import write_whole
from scan_lightning.types import Vocabulary

INDEX_NAME = "index.json"
PLAN_NAME = "unfinished.json"
IMAGES_FOLDER = "images"
FORMAT = 1
PairSource = Literal["truth", "proposal"]


@dataclass(frozen=True, kw_only=True)
class MaskText:
    """A pair.

    Attributes:
        image: The image's path relative to the root, with forward slashes.
        image_id: The image's name.
        region: The region's number within its image.
        mask: bool (H, W), with at least one pixel.
        text: What it shows.
        source: Whether the mask is the truth's or a segmenter's.
        score: How well mask and text fit, 1 for the truth, else a cosine similarity.
    """

    image: str
    image_id: str
    region: int
    mask: NDArray[np.bool_]
    text: str
    source: PairSource
    score: float = 1.0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box (top, left, bottom, right), half open, in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1

    def row(self) -> dict[str, Any]:
        """Give the pair as a row of the index; ``bbox`` is COCO's (x, y, width, height)."""
        top, left, bottom, right = self.box
        return {
            "image": self.image,
            "image_id": self.image_id,
            "region": self.region,
            "bbox": [left, top, right - left, bottom - top],
            "height": self.mask.shape[0],
            "width": self.mask.shape[1],
            "counts": encode_mask(self.mask),
            "text": self.text,
            "source": self.source,
            "score": self.score,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> MaskText:
        """Read a row of the index.

        Args:
            row: Column name to value.

        Returns:
            The pair.

        Raises:
            ValueError: If the mask's runs do not fill the image.
        """
        return cls(
            image=str(row["image"]),
            image_id=str(row["image_id"]),
            region=int(row["region"]),
            mask=decode_mask(row["counts"], (int(row["height"]), int(row["width"]))),
            text=str(row["text"]),
            source=row["source"],
            score=float(row["score"]),
        )


class PairIndexWriter:
    """Writes an index part by part; what was broken off goes on at the first part that is missing.

    Args:
        folder: Where to; made if it is missing.
        made_from: What the pairs depend on, plain values. A folder begun from something else is refused.
        parts: Number of parts.

    Raises:
        ValueError: If the folder holds something else.
    """

    def __init__(self, folder: Path, *, made_from: Mapping[str, Any], parts: int) -> None:
        self.folder = folder
        self.parts = parts
        self._plan = {"format": FORMAT, "parts": parts, "made_from": dict(made_from)}
        folder.mkdir(parents=True, exist_ok=True)
        begun = next((folder / name for name in (INDEX_NAME, PLAN_NAME) if (folder / name).is_file()), None)
        if begun is None and any(folder.iterdir()):
            raise ValueError(f"{folder}: expected an empty folder or an index of pairs, found other files")
        if begun is not None:
            found = read_json(begun)
            if {key: found.get(key) for key in self._plan} != json.loads(json.dumps(self._plan)):
                raise ValueError(f"{folder}: holds pairs that were made from something else, see {begun.name}")
        self.complete = (folder / INDEX_NAME).is_file()
        if begun is None:
            write_json(self._plan, folder / PLAN_NAME)

    def missing(self) -> list[int]:
        """List the parts that are yet to be written."""
        return [] if self.complete else [part for part in range(self.parts) if not self._path(part).is_file()]

    def write(self, part: int, pairs: Iterable[MaskText]) -> None:
        """Write a part, whole or not at all.

        Args:
            part: Its number in [0, parts).
            pairs: Its pairs; there may be none.

        Raises:
            OSError: If the disk is full or the folder cannot be written to.
        """
        write_part(self._path(part), pairs)

    def path(self, part: int) -> Path:
        """Name the file of a part, for `write_part` in another process.

        Args:
            part: Its number.

        Returns:
            The path.
        """
        return self._path(part)

    def finish(self, *, images_beside: bool, vocabulary: Vocabulary | None) -> PairIndex:
        """Write ``index.json``, which says that the index is whole.

        Args:
            images_beside: Whether the images lie in the folder itself.
            vocabulary: Words of the texts' classes, where they are class names.

        Returns:
            The index.

        Raises:
            ValueError: If there is no pair in it.
        """
        import pyarrow.parquet as parquet

        pairs = sum(parquet.read_metadata(self._path(part)).num_rows for part in range(self.parts))
        if pairs == 0:
            raise ValueError(f"{self.folder}: expected at least one pair, found none")
        words = None if vocabulary is None else {"names": vocabulary.names, "synonyms": vocabulary.synonyms}
        content = self._plan | {"pairs": pairs, "images_beside": images_beside, "vocabulary": words}
        write_json(content, self.folder / INDEX_NAME)
        (self.folder / PLAN_NAME).unlink(missing_ok=True)
        self.complete = True
        return PairIndex(self.folder)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"


def write_part(path: Path, pairs: Iterable[MaskText]) -> int:
    """Write the pairs of some images.

    Args:
        path: The file; it appears whole or not at all.
        pairs: Its pairs; there may be none.

    Returns:
        Their number.

    Raises:
        OSError: If the disk is full or the folder cannot be written to.
    """
    import datasets
    import pyarrow.parquet as parquet

    rows = [pair.row() for pair in pairs]
    features = datasets.Features(
        {
            **{name: datasets.Value("string") for name in ("image", "image_id")},
            "region": datasets.Value("int32"),
            "bbox": datasets.List(datasets.Value("int32"), length=4),
            **{name: datasets.Value("int32") for name in ("height", "width")},
            "counts": datasets.List(datasets.Value("uint32")),
            **{name: datasets.Value("string") for name in ("text", "source")},
            "score": datasets.Value("float32"),
        }
    )
    columns = {name: [row[name] for row in rows] for name in features}
    content = io.BytesIO()
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    parquet.write_table(table, content, compression="zstd")
    write_whole(path, content.getvalue())
    return len(rows)


class PairIndex:
    """A finished index.

    Args:
        folder: Where it is.
        cache_dir: Where `datasets` keeps its memory-mapped copy; None means its own default.

    Raises:
        FileNotFoundError: If there is no index, or a part of it is missing.
        ValueError: If the index is damaged, unfinished or of another format.
    """

    def __init__(self, folder: Path, *, cache_dir: Path | None = None) -> None:
        if (folder / PLAN_NAME).is_file() and not (folder / INDEX_NAME).is_file():
            raise ValueError(f"{folder}: this index of pairs is unfinished, run the command that makes it again")
        if not (folder / INDEX_NAME).is_file():
            raise FileNotFoundError(f"{folder}: expected an index of pairs with {INDEX_NAME}, found none")
        content = read_json(folder / INDEX_NAME)
        if content.get("format") != FORMAT:
            raise ValueError(f"{folder / INDEX_NAME}: expected format {FORMAT}, got {content.get('format')!r}")
        self.folder = folder
        self.images_beside = bool(content["images_beside"])
        self.vocabulary = _vocabulary(content["vocabulary"])
        self.files = [folder / f"part-{part:06d}.parquet" for part in range(int(content["parts"]))]
        lost = [path.name for path in self.files if not path.is_file()]
        if lost:
            raise FileNotFoundError(f"{folder}: expected {len(self.files)} parts, {', '.join(lost[:3])} missing")
        self._rows = self._open(cache_dir)
        if len(self._rows) != int(content["pairs"]):
            raise ValueError(f"{folder}: expected {content['pairs']} pairs, found {len(self._rows)}")

    def _open(self, cache_dir: Path | None) -> Any:
        """Open all parts as one table that is read from the disk."""
        import datasets
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            # the library reads no file without rows
            files = [str(path.resolve()) for path in self.files if parquet.read_metadata(path).num_rows]
            rows = datasets.load_dataset(
                "parquet", data_files=files, split="train", cache_dir=None if cache_dir is None else str(cache_dir)
            )
        except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowInvalid) as error:
            raise ValueError(f"{self.folder}: a part is damaged: {error.__cause__ or error}") from error
        return rows.with_format("numpy")

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self._rows)

    def __getitem__(self, index: int) -> MaskText:
        """Read a pair."""
        return MaskText.from_row(self._rows[index])

    def texts(self) -> Sequence[str]:
        """List the texts of all pairs."""
        return [str(text) for text in self._rows["text"]]


def _vocabulary(content: Mapping[str, Any] | None) -> Vocabulary | None:
    """Read the words of an index."""
    if content is None:
        return None
    synonyms = tuple(tuple(words) for words in content["synonyms"])
    return Vocabulary(names=tuple(content["names"]), synonyms=synonyms)
