import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scan_lightning.cli import main
from scan_lightning.convert import output
from scan_lightning.convert.names import to_released
from scan_lightning.models.pretrained import load_scan, save_scan
from scan_lightning.models.scan import Scan


@pytest.fixture
def source(scan: Scan, tmp_path: Path) -> Path:
    """A released checkpoint of the tiny network."""
    state = dict(scan.state_dict())
    visual = {n: v for n, v in state.items() if n.startswith("clip.clip.visual.")}
    state |= {name.replace("clip.clip.visual.", "clip.shifted_visual."): value for name, value in visual.items()}
    extra = {f"other.{index}": torch.ones(1) for index in range(25)}
    torch.save({"model": to_released(state)[0] | extra}, tmp_path / "SCAN.pth")
    return tmp_path / "SCAN.pth"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_both_directions_and_the_report(
    source: Path, scan: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "reports" / "r.json"
    assert main(["convert", str(source), str(tmp_path / "net"), "--report", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "unused (25)" in shown
    assert "other.19" in shown
    assert "other.20" not in shown
    assert "and 5 more (--report has all)" in shown
    assert "--weights" in shown.splitlines()[-1]
    content = json.loads(report.read_text())
    assert content["unused"] == [f"other.{index}" for index in range(25)]
    assert (content["what"], content["missing"], content["output"]) == ("SCAN", [], str(tmp_path / "net"))
    assert main(["convert", str(tmp_path / "net"), str(tmp_path / "back.pth")]) == 0
    states = [torch.load(path, weights_only=True)["model"] for path in (source, tmp_path / "back.pth")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert capsys.readouterr().out.splitlines()[-1] == f"written: {tmp_path / 'back.pth'}"


def test_converted_network_segments(source: Path, tmp_path: Path, image_of: Callable[..., Any]) -> None:
    from PIL import Image

    assert main(["convert", str(source), str(tmp_path / "net")]) == 0
    Image.fromarray(image_of(0, 32, 40).permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    arguments = ["segment", str(tmp_path / "photo.png"), "--words", "sky, road", "--weights", str(tmp_path / "net")]
    assert main([*arguments, "--output", str(tmp_path / "maps")]) == 0
    assert any(path.suffix == ".json" for path in (tmp_path / "maps").iterdir())


def test_missing_tensors_are_shown(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(source, weights_only=True)
    del content["model"]["learnable_weight"]
    torch.save(content, source)
    report = tmp_path / "r.json"
    assert main(["convert", str(source), str(tmp_path / "net"), "--report", str(report)]) == 1
    shown = capsys.readouterr()
    assert "missing (1)" in shown.out
    assert "1 tensors of the network are missing: learnable_weight; nothing was written" in shown.err
    assert json.loads(report.read_text())["missing"] == ["learnable_weight"]
    assert names(tmp_path) == ["SCAN.pth", "r.json"]


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("kind", ["pkl", "pth"])
def test_code_is_refused(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    marker, path = tmp_path / "code_was_run", tmp_path / f"x.{kind}"
    if kind == "pkl":
        path.write_bytes(pickle.dumps({"model": Evil(marker)}))
    else:
        torch.save({"model": Evil(marker)}, path)
    assert main(["convert", str(path), str(tmp_path / "net")]) == 1
    assert "refused: it names" in capsys.readouterr().err
    assert names(tmp_path) == [f"x.{kind}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pth", "net"], "no file none.pth"),
        (["weights/none.pth", "net"], "no file weights/none.pth"),
        (["none[/b].pth", "net"], "no file none[/b].pth"),
        (["none", "net"], "no folder none, and a hub name has the form owner/name"),
        (["SCAN.pth", "other.pth"], "is a file of released weights"),
        (["SCAN.pth", "net.safetensors"], "expected a folder or a file that ends in .pth, got net.safetensors"),
        (["own", "net"], "is a folder of this project already"),
        (["own", "own.pth", "--quick-gelu"], "belong to a file of released weights, not a folder"),
        (["SCAN.pth", "net", "--config", "none.yaml"], "config: no file none.yaml"),
        (["SCAN.pth", "net", "--config", "SCAN.pth"], "neither JSON nor plain YAML"),
        (["SCAN.pth", "net", "--config", "empty.json"], "expected a section MODEL"),
        (["clip.pth", "net", "--shifted-clip", "SCAN.pth"], "--shifted-clip belongs to a released SCAN"),
        (["SCAN.pth", "net", "--shifted-clip", "none.pth"], "no file none.pth"),
        (["SCAN.pth", "taken"], "the folder taken is not empty; --overwrite replaces it"),
        (["SCAN.pth", "taken", "--overwrite"], "taken holds no network, so it is not replaced"),
        (["SCAN.pth", "empty.json"], "empty.json is another file"),
        (["own", "SCAN.pth"], "SCAN.pth is there already"),
        (["taken", "x.pth"], "taken: expected one of a SCAN of this project"),
    ],
)
def test_wrong_calls_say_what_was_expected(
    arguments: list[str],
    message: str,
    source: Path,
    scan: Scan,
    clip_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("x")
    save_scan(scan, tmp_path / "own")
    assert main(["convert", str(clip_folder), "clip.pth"]) == 0
    before = names(tmp_path)
    assert main(["convert", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert names(tmp_path) == before
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "x"


def test_overwrite_replaces_the_whole_folder(source: Path, tmp_path: Path) -> None:
    assert main(["convert", str(source), str(tmp_path / "net")]) == 0
    (tmp_path / "net" / "stale.safetensors").write_text("x")
    assert main(["convert", str(source), str(tmp_path / "net"), "--overwrite"]) == 0
    assert "stale.safetensors" not in names(tmp_path / "net")
    load_scan(tmp_path / "net")
    assert main(["convert", str(tmp_path / "net"), str(source), "--overwrite"]) == 0
    assert names(tmp_path) == ["SCAN.pth", "net"]


@pytest.mark.parametrize("target", ["net", "back.pth"])
def test_disk_that_is_full_leaves_the_older_output(
    source: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(source), str(tmp_path / "net")]) == 0
    assert main(["convert", str(tmp_path / "net"), str(tmp_path / "back.pth")]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "save_file" if target == "net" else "torch", full if target == "net" else _Full)
    given = source if target == "net" else tmp_path / "net"
    assert main(["convert", str(given), str(tmp_path / target), "--overwrite"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class _Full:
    """torch on a full disk."""

    @staticmethod
    def save(*_: Any) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.skipif(sys.platform == "win32", reason="rights are others there")
def test_files_have_the_rights_of_new_ones(source: Path, tmp_path: Path) -> None:
    assert main(["convert", str(source), str(tmp_path / "net")]) == 0
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "net").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}
