"""Pickles of plain values and NumPy arrays, read by an unpickler that knows nothing else and runs nothing.

A pickle names functions to call. Here each name that arrays need stands for a function of this module, which only
copies bytes; any other name is refused before anything is called.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Table = Mapping[tuple[str, str], object]
"""What stands for each name (module, name) that a pickle may use."""


class RefusedPickleError(pickle.UnpicklingError):
    """A pickle names something else than plain values and arrays."""


class Stand:
    """A function under a pickled name: a pickle can call it and do nothing else to it.

    Args:
        function: What a call does.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return self._function(*arguments)

    def __setstate__(self, _state: object) -> NoReturn:
        """Refuse to be changed by a pickle."""
        raise RefusedPickleError("it tried to change a function")


class PlainDict(dict[Any, Any]):
    """An ordered dictionary without the attributes that PyTorch hangs on state dicts."""

    def __setstate__(self, _state: object) -> None:
        """Leave attributes out."""


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows the names of a table and refuses all others.

    Args:
        file: The pickle.
        table: What stands for each name.
        prefixes: What stands for all names of modules that start so, or are so.
    """

    def __init__(self, file: BinaryIO, *, table: Table, prefixes: Mapping[str, object] | None = None) -> None:
        super().__init__(file)
        self._table = table
        self._prefixes = dict(prefixes or {})

    def find_class(self, module: str, name: str) -> object:
        """Give what stands for a name.

        Args:
            module: Its module.
            name: The name.

        Raises:
            RefusedPickleError: If it is not in the table.
        """
        if (module, name) in self._table:
            return self._table[module, name]
        for prefix, stand in self._prefixes.items():
            if module == prefix or module.startswith(f"{prefix}."):
                return stand
        raise RefusedPickleError(f"it names {module}.{name}")


class _Dtype:
    """A pickled numpy.dtype of plain numbers."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) else np.dtype("V")
        if self.dtype.kind not in "biuf" or self.dtype.itemsize > 8:
            raise RefusedPickleError(f"it holds an array of {code!r}, not of numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """A pickled numpy.ndarray."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take shape, type and bytes."""
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, "F" if fortran else "C")

    def fill(self, content: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> PickledArray:
        """Copy the bytes.

        Args:
            content: They.
            dtype: Type of the numbers.
            shape: Of the array.
            order: "C" or "F".

        Returns:
            This array.
        """
        flat = np.frombuffer(content, dtype=dtype.dtype)
        self.values = flat.astype(dtype.dtype.newbyteorder("="), copy=True).reshape(shape, order=order)
        return self

    def tensor(self) -> Tensor:
        """Give the array as a tensor of the same numbers.

        Raises:
            pickle.UnpicklingError: If the pickle left it empty.
        """
        if self.values is None:
            raise pickle.UnpicklingError("it holds an array without content")
        return torch.from_numpy(np.array(self.values, order="C"))


def _frombuffer(content: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], order: str) -> PickledArray:
    """Stand for numpy's function of protocol 5."""
    return PickledArray().fill(content, dtype, shape, order)


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    """Stand for numpy's scalars; gives a Python number."""
    return np.frombuffer(content, dtype=dtype.dtype, count=1)[0].item()


def no_bytes() -> bytes:
    """Stand for the call by which protocol 2 writes empty bytes."""
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """Stand for the function by which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise RefusedPickleError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


ARRAY_TABLE: Table = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): Stand(_Dtype),
    ("_codecs", "encode"): Stand(_encode),
    ("__builtin__", "bytes"): Stand(no_bytes),
    ("builtins", "bytes"): Stand(no_bytes),
    ("collections", "OrderedDict"): Stand(PlainDict),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Stand(PickledArray) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Stand(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Stand(_frombuffer) for core in ("core", "_core")},
}
"""The names by which dictionaries of arrays are pickled, NumPy 1 and 2."""


def load_arrays(content: bytes) -> object:
    """Read a pickle of dictionaries, lists, texts, numbers and arrays.

    Args:
        content: The pickle.

    Returns:
        What it holds; arrays as `PickledArray`.

    Raises:
        RefusedPickleError: If it names anything else, such as code.
        pickle.UnpicklingError: If it is damaged.
    """
    return RestrictedUnpickler(io.BytesIO(content), table=ARRAY_TABLE).load()
