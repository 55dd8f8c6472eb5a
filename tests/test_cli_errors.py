"""Tests of what the command line says to a wrong call, and of how little it loads for that."""

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from scan_lightning.cli import COMMANDS, LIGHTNING, main
from scan_lightning.cli_errors import shorten

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.yaml"
LIGHT = """
import sys
from scan_lightning.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("loaded:", *sorted({"torch", "lightning", "timm", "torchvision", "wandb"} & set(sys.modules)))
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command that is not refused would write, it writes elsewhere."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a call that cannot be parsed prints."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    printed: str = capsys.readouterr().err
    return printed


@pytest.mark.parametrize(
    ("given", "similar"), [("fitt", "fit"), ("evalute", "evaluate"), ("tables", "table"), ("frobnicate", None)]
)
def test_wrong_command_lists_all_and_suggests(
    given: str, similar: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal([given], capsys)
    assert f"no command '{given}'" in error
    assert (f"did you mean '{similar}'?" in error) == (similar is not None)
    assert all(name in error for name in (*LIGHTNING, *COMMANDS))


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scan-lightning {version('scan-lightning')}\n"


@pytest.mark.parametrize("argument", ["--help", "--version", "fitt"])
def test_help_version_and_wrong_command_load_no_large_library(argument: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, argument], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_every_command_has_its_module() -> None:
    assert all(find_spec(f"scan_lightning.commands.{name}") for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["fit", f"--config={QUICKSTART}", "--trainer.max_step=20"], "--trainer.max_step=20"),
        (["run", f"--config={QUICKSTART}", "--seed_everythin=1"], "--seed_everythin=1"),
    ],
)
def test_abbreviated_option_is_refused(arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert option in refusal(arguments, capsys)


NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'scan_lightning.module.ScanModule':
        Group 'network' does not accept option 'queries'
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'init_args': {'network': {'queries': 3}}}"""
YAML = """Parser key "config": Problem: while parsing a flow node
expected the node content, but found '<stream end>'
  in "<unicode string>", line 2, column 1:

    ^"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            NESTED,
            "Group 'network' does not accept option 'queries' "
            "(in: Parser key \"model\"; Problem with given class_path 'scan_lightning.module.ScanModule')",
        ),
        (
            YAML,
            'Parser key "config": Problem: while parsing a flow node expected the node content, '
            "but found '<stream end>' in \"<unicode string>\", line 2, column 1:",
        ),
        ("checkpoint: two\n  lines of our own", "checkpoint: two\n  lines of our own"),
        ('Parser key "a": no. Got value: Namespace(b=1)', 'Parser key "a": no'),
        ('Parser key "a": ' + "x" * 5000, 'Parser key "a": ' + "x" * 484 + " ..."),
    ],
)
def test_message_is_shortened_to_what_matters(message: str, expected: str) -> None:
    assert shorten(message) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "overlay.yaml"),
        ("trainer: {max_stepz: 3}", "does not accept option 'trainer.max_stepz'"),
        ("trainer: {max_steps: many}", "Got value: many"),
        ("model: {init_args: {network: {queries: 3}}}", "Group 'network' does not accept option 'queries'"),
        ("trainer: [", "line "),
    ],
)
def test_parse_error_is_told_without_usage(
    content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("overlay.yaml").write_text(content, "utf-8")
    error = refusal(["fit", f"--config={QUICKSTART}", "--config=overlay.yaml"], capsys)
    assert error.startswith("scan-lightning fit: error: ")
    assert error.endswith("\nsee scan-lightning fit --help\n")
    assert message in error
    assert "usage" not in error
    assert len(error) < 600


def test_value_out_of_range_is_told_without_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", f"--config={QUICKSTART}", "--model.init_args.inference.replace_ratio=7"]) == 1
    error = capsys.readouterr().err
    assert "replace_ratio: expected" in error
    assert "Namespace(" not in error
    assert len(error) < 600
