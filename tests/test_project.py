"""What holds for the project as a whole: docstrings, file sizes, no machine paths, plain recipes, a true README."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scan_lightning"
MAX_LINES = 400
TEXT_SUFFIXES = {
    ".cff",
    ".cfg",
    ".csv",
    ".ipynb",
    ".json",
    ".md",
    ".py",
    ".sh",
    ".tex",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}
HOME_FOLDERS = ("home", "mnt", "opt", "root", "scratch", "tmp", "Users", "work", "workspace")
MACHINE_PATH = re.compile(rf"(?<![\w.:/}}\-])/(?:{'|'.join(HOME_FOLDERS)})/\w|\b[A-Z]:\\\\?Users\b")
BLOCK = re.compile(r"```(?:bash|console|sh|shell)?\n(.*?)```", re.DOTALL)


def tracked_files() -> list[Path]:
    """Files that belong to the project: those git tracks or would, or without git all but hidden folders'."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        files = [
            path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    else:
        files = [ROOT / name for name in listing.split("\0") if name]
    return sorted(path for path in files if path.is_file())


def is_text(path: Path) -> bool:
    """Whether a file is read as text by people: by its suffix, or a file without one such as .ci/run or NOTICE."""
    return path.suffix in TEXT_SUFFIXES or (not path.suffix and path.name not in {".gitignore"})


def undocumented(tree: ast.Module, where: str) -> Iterator[str]:
    """Public module, classes, functions and methods without a docstring; a module without code may go without."""
    if tree.body and not ast.get_docstring(tree):
        yield where
    yield from _undocumented_members(tree, where)


def _undocumented_members(parent: ast.Module | ast.ClassDef, where: str) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator).rsplit(".", 1)[-1] for decorator in node.decorator_list}
        if decorators & {"overload", "setter", "override"}:
            continue
        if not ast.get_docstring(node):
            yield f"{where}: {node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented_members(node, f"{where}: {node.name}")


def commands(markdown: str) -> list[str]:
    """Lines of a Markdown text's shell blocks, in order, prompts dropped and continued lines joined."""
    lines = "\n".join(BLOCK.findall(markdown)).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line.strip().removeprefix("$ ")) for line in lines if line.strip()]


def test_docstrings_on_everything_public() -> None:
    files = [path for path in tracked_files() if path.suffix == ".py" and path.is_relative_to(PACKAGE)]
    assert PACKAGE / "types.py" in files
    found = [
        name for path in files for name in undocumented(ast.parse(path.read_text("utf-8")), str(path.relative_to(ROOT)))
    ]
    assert not found, "without a docstring:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", []),
        ("import os", ["x.py"]),
        ("'''M.'''\ndef f(): pass\ndef _g(): pass", ["x.py: f"]),
        ("'''M.'''\nclass A:\n    '''A.'''\n    def f(self): pass\n    def __init__(self): pass", ["x.py: A: f"]),
        ("'''M.'''\nclass _A:\n    def f(self): pass", []),
    ],
)
def test_docstrings_missing_one_is_found(source: str, names: list[str]) -> None:
    assert list(undocumented(ast.parse(source), "x.py")) == names


def test_file_lengths_below_limit() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in tracked_files()
        if path.suffix == ".py"
    }
    assert lengths
    too_long = {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
    assert not too_long, f"over {MAX_LINES} lines: {too_long}"


def test_no_machine_path_in_tracked_text() -> None:
    places = (str(ROOT), str(Path.home()) + "/")
    found = []
    for path in filter(is_text, tracked_files()):
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
            if path != Path(__file__) and (MACHINE_PATH.search(line) or any(place in line for place in places)):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "a machine's path:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line", ["root: /home/ann/data", "'/work/x'", "(/Users/ann/x)", r"C:\Users\ann", '"/tmp/x.png"']
)
def test_machine_path_is_found(line: str) -> None:
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["https://x.org/home/ann", "data/work/x", "../root/x", "a framework/tmp/x", "/home"])
def test_machine_path_leaves_other_text(line: str) -> None:
    assert not MACHINE_PATH.search(line)


def test_recipes_parse_as_plain_yaml() -> None:
    files = [
        path
        for path in tracked_files()
        if path.suffix in {".yaml", ".yml"} and path.is_relative_to(ROOT / "experiments")
    ]
    assert files, "no recipe under experiments/"
    for path in files:
        content = yaml.safe_load(path.read_text("utf-8"))
        assert isinstance(content, dict), f"{path.relative_to(ROOT)}: expected a mapping, got {type(content).__name__}"
        assert content, f"{path.relative_to(ROOT)} is empty"


def test_readme_has_the_commands_to_set_up_and_to_test() -> None:
    lines = commands((ROOT / "README.md").read_text("utf-8"))
    assert any(line.startswith("python -m pip install -e . && scan-lightning fit -c experiments/") for line in lines)
    assert 'python -m pip install -e ".[test]" && python -m pytest' in lines


def test_readme_and_ci_install_alike() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    installs = [line.replace("--quiet ", "") for line in lines if "pip install" in line]
    assert installs[0] == 'python -m pip install -e ".[test]"'
    assert any(line.startswith("python -m pytest") for line in lines)


def test_documents_name_recipes_that_exist() -> None:
    named = {
        (path.relative_to(ROOT), name)
        for path in tracked_files()
        if path.suffix == ".md"
        for name in re.findall(r"(?<![\w/])experiments/[\w./-]+\.(?:yaml|csv|py)\b", path.read_text("utf-8"))
    }
    assert any(document == Path("README.md") for document, _ in named), "README.md names no recipe"
    missing = [f"{document}: {name}" for document, name in sorted(named) if not (ROOT / name).is_file()]
    assert not missing, "\n".join(missing)


def test_pyproject_extras_and_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"test", "dev"} <= set(project["optional-dependencies"])
    module, function = project["scripts"]["scan-lightning"].split(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    names = {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
    assert function in names
    assert all((ROOT / name).is_file() for name in project["license-files"])
