"""The notebooks carry no outputs, are pure Python, run in short form, and fail where a number is wrong."""

import ast
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
NAMES = [path.stem for path in FILES]
FIGURES = {"01_quickstart": 6, "02_contextual_shift": 9, "03_sg_iou": 8}
"""For each notebook the least number of pictures that it shows."""


def read(name: str) -> NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run_until(name: str, last: str, **changes: str) -> None:
    """Run a notebook's cells in this process up to the one with the id ``last``, some texts replaced in it."""
    cells = code_cells(read(name))
    names: dict[str, object] = {}
    for cell in cells[: [cell.id for cell in cells].index(last) + 1]:
        source = cell.source
        if cell.id == last:
            for before, after in changes.items():
                assert before in source, f"{last}: no {before!r} to replace"
                source = source.replace(before, after)
        exec(compile(source, cell.id, "exec"), names)  # noqa: S102


def test_notebooks_are_those_that_are_expected() -> None:
    assert set(NAMES) == set(FIGURES)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_carries_no_results(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == [], f"{cell.id} has outputs; clear them before a commit"
        assert cell.execution_count is None, f"{cell.id} has an execution count"


@pytest.mark.parametrize("name", NAMES)
def test_notebook_metadata_are_of_no_machine(name: str) -> None:
    notebook = read(name)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_reads_as_a_tutorial(name: str) -> None:
    """A title, text before each cell, and first the settings."""
    cells = read(name).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    for before, cell in pairwise(cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"{cell.id} has no text before it"
            ast.parse(cell.source)  # no magic, no shell
    settings = code_cells(read(name))[0]
    assert settings.id == "settings"
    assert 'os.environ.get("SCAN_LIGHTNING_NOTEBOOK") == "short"' in settings.source


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_in_short_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scratch = tmp_path / "folder", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    for variable, value in {
        "SCAN_LIGHTNING_NOTEBOOK": "short",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(scratch),
        "IPYTHONDIR": str(scratch / "ipython"),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
    }.items():
        monkeypatch.setenv(variable, value)
    notebook = read(name)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert pictures >= FIGURES[name], f"{name} shows {pictures} pictures"
    assert list(folder.iterdir()) == [], "it wrote beside itself, not below a temporary folder"


def test_sg_iou_by_hand_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two tests of wrong numbers below change is right as it stands."""
    mpl.use("Agg")
    monkeypatch.setenv("SCAN_LIGHTNING_NOTEBOOK", "short")
    run_until("03_sg_iou", "mean")


@pytest.mark.parametrize(
    ("cell", "right", "wrong"),
    [
        ("confusion", "by_hand[predicted, true] += 1", "by_hand[true, predicted] += 1"),
        ("iou", "union = gt + pred - tp", "union = gt + pred"),
        ("sg", "by_hand[CHAIR, ARMCHAIR] + by_hand[CHAIR, CHAIR])", "by_hand[CHAIR, ARMCHAIR])"),
        ("mean", "sum(scores.values()) / 4", "sum(scores.values()) / 5"),
    ],
)
def test_sg_iou_by_hand_fails_where_it_is_wrong(
    cell: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpl.use("Agg")
    monkeypatch.setenv("SCAN_LIGHTNING_NOTEBOOK", "short")
    with pytest.raises(AssertionError):
        run_until("03_sg_iou", cell, **{right: wrong})
