"""Reading files of weights: every format, no code, clear refusals."""

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scan_lightning.convert.files import read_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "b.half": torch.tensor([1.5, float("nan")], dtype=torch.float16),
    "c.index": torch.tensor([[3, -1]], dtype=torch.int64),
    "d.scalar": torch.tensor(2.5),
    "e.empty": torch.zeros(0, 4),
    "f.flag": torch.tensor([True, False]),
}
MARKER = "code_was_run"


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = TENSORS) -> bool:
    return found.keys() == expected.keys() and all(
        value.dtype == expected[name].dtype
        and value.shape == expected[name].shape
        and torch.equal(value.nan_to_num(9), expected[name].nan_to_num(9))
        for name, value in found.items()
    )


@pytest.mark.parametrize("container", ["", "model", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files(tmp_path: Path, container: str, legacy: bool) -> None:
    content: dict[str, Any] = {container: TENSORS, "iteration": 3, "names": ["x"]} if container else dict(TENSORS)
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    found = read_tensors(tmp_path / "x.pth")
    assert same(found.tensors)
    assert (found.archive, found.container) == ("PyTorch file", container)
    assert dict(found.plain) == ({"iteration": 3, "names": ["x"]} if container else {})


def test_safetensors_whatever_the_suffix(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.bin"):
        save_file(TENSORS, tmp_path / name)
        found = read_tensors(tmp_path / name)
        assert same(found.tensors)
        assert found.archive == "safetensors"


def test_arrays_in_pytorch_files(tmp_path: Path) -> None:
    torch.save({"model": {name: value.numpy() for name, value in TENSORS.items()}}, tmp_path / "x.pth")
    assert same(read_tensors(tmp_path / "x.pth").tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    arrays = {name: value.numpy() for name, value in TENSORS.items()}
    content = {"model": arrays, "__author__": "a zoo", "matching_heuristics": True, "lr": np.float64(0.5)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_tensors(tmp_path / "x.pkl")
    assert same(found.tensors)
    assert (found.archive, found.container) == ("pickle of arrays", "model")
    assert dict(found.plain) == {"__author__": "a zoo", "matching_heuristics": True, "lr": 0.5}


def test_pickled_arrays_of_other_orders(tmp_path: Path) -> None:
    arrays = {
        "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        "big_endian": np.arange(3, dtype=">f4"),
        "strided": np.arange(10, dtype=np.int32)[::3],
    }
    for name, dump in (("old", arrays), ("new", {key: value for key, value in arrays.items() if key != "strided"})):
        content = pickle.dumps(dump, protocol=2 if name == "old" else 5)
        # The names that NumPy 1 wrote.
        content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if name == "old" else content
        (tmp_path / "x.pkl").write_bytes(content)
        found = read_tensors(tmp_path / "x.pkl").tensors
        assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in dump.items()}
        assert found["big_endian"].dtype == torch.float32


class Net(nn.Module):
    """Parameters and buffers at several depths, in two types."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.offset = nn.Parameter(torch.ones(2, dtype=torch.float16))
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.visual(x)
        return self.attention(y, y, y)[0] + self.offset.float().sum()


def save_program(path: Path) -> dict[str, torch.Tensor]:
    """Write a TorchScript archive; give its state."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; OpenAI's archives stay what they are
        program = torch.jit.trace(Net().eval(), torch.ones(2, 1, 3))
        torch.jit.save(program, path)
    return {name: value.detach() for name, value in program.state_dict().items()}


def test_torchscript_gives_the_state_without_running_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = save_program(tmp_path / "x.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch._C, "import_ir_module", None)
    found = read_tensors(tmp_path / "x.pt")
    assert found.archive == "TorchScript archive"
    assert same(found.tensors, expected)


class Evil:
    """Runs code when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def rewrite(source: Path, target: Path, change: dict[str, bytes]) -> None:
    """Copy a ZIP file with other content for entries by the ends of their names."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            ending = next((key for key in change if name.endswith(key)), None)
            new.writestr(name, old.read(name) if ending is None else change[ending])


@pytest.mark.parametrize("kind", ["pkl", "zip", "legacy", "torchscript", "pkl in safetensors"])
def test_code_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / MARKER, tmp_path / "x.pth"
    evil = {"model": {"z": Evil(marker), **TENSORS}}
    if kind in ("zip", "legacy"):
        torch.save(evil, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "torchscript":
        save_program(tmp_path / "good.pt")
        rewrite(tmp_path / "good.pt", path, {"/data.pkl": pickle.dumps(evil, protocol=2)})
    else:
        path = tmp_path / ("x.pkl" if kind == "pkl" else "x.safetensors")
        path.write_bytes(pickle.dumps(evil))
    with pytest.raises(ValueError, match=r"refused: it names \w+\.mkdir.*Nothing was run|damaged, truncated"):
        read_tensors(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # noqa: S301 - the same file would have run it
    assert marker.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__torch__.x\nM\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy._core.multiarray\n_reconstruct\n}S'__call__'\nNsb.",  # changes the function
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"cnumpy\ndtype\n(I3\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    ],
)
def test_hand_made_pickles_are_refused(tmp_path: Path, payload: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + payload)
    with pytest.raises(ValueError, match=r"x\.pkl: (refused|damaged)"):
        read_tensors(tmp_path / "x.pkl")


@pytest.mark.parametrize("shape", [(10**9, 10**9), (-1, 7), (4,)])
def test_array_without_its_bytes_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = pickle.dumps({"a": np.zeros((2, 3), np.float32)}, protocol=2)
    assert content.count(b"K\x02K\x03\x86") == 1
    inserted = pickle.dumps(shape, protocol=2)[2:-1].split(b"q\x00")[0]
    (tmp_path / "x.pkl").write_bytes(content.replace(b"K\x02K\x03\x86", inserted))
    with pytest.raises(ValueError, match="damaged, truncated or no file of weights"):
        read_tensors(tmp_path / "x.pkl")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pkl", "safetensors", "torchscript"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    many = {f"{name}{index}": value.clone() for index in range(40) for name, value in TENSORS.items()}
    if kind in ("zip", "legacy"):
        torch.save(many, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "pkl":
        path.write_bytes(pickle.dumps({name: value.numpy() for name, value in many.items()}))
    elif kind == "safetensors":
        save_file(many, path)
    else:
        save_program(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"x\.(pth|safetensors): (the file is empty|damaged, truncated)"):
        read_tensors(path)


@pytest.mark.parametrize("missing", ["/data/0", "/data.pkl"])
def test_archive_without_an_entry_is_refused(tmp_path: Path, missing: str) -> None:
    save_program(tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for name in old.namelist():
            if not name.endswith(missing):
                new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"x\.pt: damaged"):
        read_tensors(tmp_path / "x.pt")


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    save_program(tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as old,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"x\.pt: damaged.*is compressed"):
        read_tensors(tmp_path / "x.pt")


def test_files_without_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"steps": 3}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="expected tensors, found none among steps"):
        read_tensors(tmp_path / "x.pth")
    torch.save([torch.ones(2)], tmp_path / "x.pth")
    with pytest.raises(ValueError, match="expected tensors by name, found a list"):
        read_tensors(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="damaged, truncated or no file of weights"):
        read_tensors(tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_tensors(tmp_path)


def test_values_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"model": {**TENSORS, "steps": 3, "name": "x"}}, tmp_path / "x.pth")
    assert read_tensors(tmp_path / "x.pth").others == ("steps", "name")


def test_functions_cannot_be_changed_by_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02cnumpy\ndtype\nN}S'_function'\nI3\ns\x86b.")
    with pytest.raises(ValueError, match="tried to change a function"):
        read_tensors(tmp_path / "x.pkl")
