"""Images and label maps of every kind in the columns of a data set, and wrong ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from data.tiny_hub import LABELS, TRUTH, make, png, samples, shade, table
from scan_lightning.data.images import ImageFileError
from scan_lightning.types import Sample


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", ["palette", "grey", "16 bit", "rows", "flat", "Array2D"])
def test_label_maps_of_every_kind(tmp_path: Path, cache: Path, kind: str) -> None:
    labels: Any = {
        "palette": png(LABELS, [9, 9, 9] * 256),
        "grey": png(LABELS),
        "16 bit": png(LABELS.astype(np.uint16)),
        "rows": LABELS.tolist(),
        "flat": LABELS.ravel().tolist(),
        "Array2D": LABELS,
    }[kind]
    content = datasets.Dataset.from_dict({"image": [png(shade(0))], "label": [labels]})
    if kind == "Array2D":
        content = content.cast_column("label", datasets.Array2D(LABELS.shape, "uint8"))
    content.to_parquet(tmp_path / "test.parquet")
    for streaming in (False, True):
        (found,) = samples(make(tmp_path, cache, streaming=streaming))
        assert found.label_map is not None
        assert found.label_map.tolist() == TRUTH.tolist()


def test_images_are_read_as_files_are(tmp_path: Path, cache: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned clockwise by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (16, 32), (8, 8, 8)).save(buffer, "PNG", exif=turned)
    cmyk = io.BytesIO()
    Image.new("CMYK", (32, 16), (0, 0, 0, 255)).save(cmyk, "JPEG")
    grey, deep = png(LABELS), png(np.full(LABELS.shape, 300 * 256, np.uint32).astype(np.uint16))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    content = [{"bytes": value, "path": None} for value in (buffer.getvalue(), cmyk.getvalue(), grey, deep)]
    label = {"bytes": png(LABELS), "path": None}
    data = datasets.Dataset.from_dict({"image": content, "label": [label] * 4}, features=features)
    data.to_parquet(tmp_path / "test.parquet")
    found = samples(make(tmp_path, cache))
    assert all(tuple(sample.image.shape) == (3, 16, 32) for sample in found)
    assert found[0].image.unique().tolist() == [8]
    assert found[1].image.max() < 10
    assert (found[2].image.numpy() == LABELS).all()
    assert found[3].image.unique().tolist() == [300 % 256]


def test_labels_of_stored_pixels_leave_the_image_as_it_is_stored(tmp_path: Path, cache: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned clockwise by 90 degrees
    buffer = io.BytesIO()
    Image.fromarray(shade(7)).save(buffer, "PNG", exif=turned)
    data = datasets.Dataset.from_dict({"image": [buffer.getvalue()], "label": [png(LABELS)]})
    data.to_parquet(tmp_path / "test.parquet")
    (found,) = samples(make(tmp_path, cache))
    assert found.label_map is not None
    assert found.label_map.tolist() == TRUTH.tolist()
    assert (found.image.permute(1, 2, 0).numpy() == shade(7)).all()


def test_images_by_path_stay_inside_their_folder(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(shade(5)).save(folder / "a.png")
    Image.fromarray(shade(5)).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")

    def read(name: str, **options: Any) -> Sample:
        data = make(table(tmp_path, image=[name], label=[png(LABELS)]), cache, **options)
        return samples(data)[0]

    assert read("a.png", image_root=folder).image.unique().tolist() == [5]
    assert read(str(folder / "a.png"), image_root=folder).image_id == "test_000000"
    for name in ("../outside.png", str(tmp_path / "outside.png"), "link.png"):
        with pytest.raises(ImageFileError, match=r"row 0, column 'image': expected a file inside .*/pictures, got "):
            read(name, image_root=folder)
    with pytest.raises(ImageFileError, match=r"expected a file inside .*/table, got /.*a.png; image_root names"):
        read(str(folder / "a.png"))
    with pytest.raises(FileNotFoundError, match=r"none\.png: expected an image, found no such file"):
        read("none.png", image_root=folder)
    with pytest.raises(ImageFileError, match=r"expected bytes or a local file, got hf://x/a.png"):
        read("hf://x/a.png", image_root=folder)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": [[[0] * 32] * 15]},
            r"row 0, column 'label': expected labels of the image's size \(16, 32\), got \(15",
        ),
        ({"label": [[0] * 511]}, r"expected labels of the image's size \(16, 32\), got \(511,\)"),
        ({"label": [[[0] * 32] * 15 + [[0]]]}, r"expected rows of one length, got \[1, 32\]"),
        ({"label": [[[0.5] * 32] * 16]}, "expected integers, got double"),
        ({"label": [[[None, 1] * 16] * 16]}, "expected integers, got 256 without value"),
        (
            {"label": [None, [[1]]], "image": [png(shade(0))] * 2},
            "row 0, column 'label': expected a label map, got none",
        ),
        ({"label": [3]}, r"column 'label': expected an encoded image \(bytes or a path\), got int64"),
        ({"label": [png(shade(1))]}, "column 'label': expected a label map with one channel .* got mode RGB"),
        (
            {"image": [b"no"], "label": [[0]]},
            "test.*, row 0, column 'image': expected an image, got a file that is none",
        ),
        ({"image": [None, b""], "label": [[0]] * 2}, "column 'image': expected an encoded image, got none"),
        ({"name": [""]}, "column 'name': expected a name or number as id, got ''"),
        (
            {"name": ["a", "b", "b"]},
            "split test, column 'name': expected an id of its own for each row, got 'b' 2 times",
        ),
    ],
)
def test_wrong_rows_raise(tmp_path: Path, cache: Path, columns: dict[str, Any], message: str) -> None:
    number = len(next(iter(columns.values())))
    plain = {"image": [png(shade(0))] * number, "label": [png(LABELS)] * number, "name": [*"abc"][:number]}
    with pytest.raises(ValueError, match=message):
        samples(make(table(tmp_path, **{**plain, **columns}), cache, id_column="name"))
