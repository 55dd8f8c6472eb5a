from pathlib import Path

import pytest
from PIL import Image

from scan_lightning.commands.plot import main
from tests.reports.made_up import LAYOUT, write_ablation


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    write_ablation("mask_threshold", tmp_path / "rows")
    return [f"--rows={tmp_path / 'rows'}", f"--layout={LAYOUT}", f"--output={tmp_path / 'plots'}"]


def test_plots_become_files_and_are_checked(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mask_threshold", "--check", *options]) == 1
    assert "mask_threshold.png is missing" in capsys.readouterr().err
    assert main(["--all", *options]) == 0
    printed = capsys.readouterr()
    assert "seen_unseen left out, there are no rows in" in printed.err
    assert printed.out.splitlines() == [str(tmp_path / "plots" / f"mask_threshold.{end}") for end in ("png", "svg")]
    with Image.open(tmp_path / "plots" / "mask_threshold.png") as image:
        assert image.width > 1000
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert main(["--all", "--check", *options]) == 0
    assert capsys.readouterr().out == "files: 2, not from these rows: 0\n"
    path = tmp_path / "rows" / "mask_threshold.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",0.5", ",0.6"), encoding="utf-8")
    assert main(["mask_threshold", "--check", "--format", "svg", *options]) == 1
    printed = capsys.readouterr()
    assert "mask_threshold.svg was drawn from other rows or another layout" in printed.err
    assert printed.out == "files: 1, not from these rows: 1\n"


def test_what_cannot_be_drawn_is_told(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ratio", *options]) == 1
    assert "plot 'ratio': not in the layout, which has cs_ratio" in capsys.readouterr().err
    assert main(["cs_ratio", *options]) == 1
    assert "cs_ratio.csv: expected a file of rows, found none" in capsys.readouterr().err
    (tmp_path / "rows" / "mask_threshold.csv").unlink()
    assert main(["--all", "--check", *options]) == 1
    assert "there is nothing to check" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(options)
