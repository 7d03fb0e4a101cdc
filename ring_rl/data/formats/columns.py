"""Arrays by name, some rows at a time, from an .npz or an HDF5 file alike."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Shaped

from ring_rl.data.formats.archives import Archive, open_npz
from ring_rl.data.formats.hdf5 import (
    dataset,
    datasets_below,
    mismatch,
    open_hdf5,
    read_rows,
)

_BLOCK_BYTES = 1 << 24  # of one array, looked at together


class Column(NamedTuple):
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype


@runtime_checkable
class Columns(Protocol):
    """The arrays of an open file; rows are along the first axis."""

    def names(self) -> tuple[str, ...]:
        """Of all arrays."""
        ...

    def column(self, name: str) -> Column:
        """Shape and type of an array."""
        ...

    def rows(self, name: str, start: int, stop: int) -> Shaped[np.ndarray, "rows ..."]:
        """Some rows of an array, in the machine's byte order."""
        ...

    def mismatch(self, name: str, expected: str, found: object) -> ValueError:
        """The error about an array; what was found may be its `Column`."""
        ...


@contextlib.contextmanager
def open_columns(path: Path, format: str) -> Iterator[Columns]:
    """Opens a file of the format `npz` or `hdf5`.

    Raises:
      ValueError: one line that starts with the path, if it is not such a file.
    """
    if format == "npz":
        with open_npz(path) as archive:
            yield _NpzColumns(archive)
    else:
        with open_hdf5(path) as file:
            yield _Hdf5Columns(file)


def read_whole(columns: Columns, name: str) -> Shaped[np.ndarray, "*shape"]:
    """A whole array of one axis or more; for what has a few bytes a step or episode."""
    return columns.rows(name, 0, columns.column(name).shape[0])


def read_flags(columns: Columns, name: str) -> Bool[np.ndarray, " rows"]:
    """An array of zeros and ones `[rows]` or `[rows 1]`, of any type, as booleans.

    Raises:
      ValueError: naming the first row that is neither 0 nor 1.
    """
    rows = columns.column(name).shape[0]
    flags = np.empty(rows, bool)
    for start, stop in blocks(columns, name):
        values = columns.rows(name, start, stop).reshape(stop - start)
        flags[start:stop] = values
        wrong = np.flatnonzero(values != flags[start:stop])
        if len(wrong):
            found = f"{values[wrong[0]]} in row {start + wrong[0]}"
            raise columns.mismatch(name, "0 and 1", found)
    return flags


def blocks(columns: Columns, name: str) -> Iterator[tuple[int, int]]:
    """Starts and stops of blocks of rows of an array that are fit for memory."""
    shape, dtype = columns.column(name)
    width = max(1, int(np.prod(shape[1:], dtype=np.float64)) * dtype.itemsize)
    step = max(1, _BLOCK_BYTES // width)
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def as_float32(
    columns: Columns, name: str, values: Shaped[np.ndarray, "rows ..."], start: int
) -> Float32[np.ndarray, "rows ..."]:
    """Rows from `start` on as float32: float64 is rounded, integers must fit exactly.

    Raises:
      ValueError: naming the first row that is not finite, or does not fit.
    """
    with np.errstate(over="ignore"):  # too large for float32: not finite, and so found
        numbers = values.astype(np.float32, copy=False)
    good = np.isfinite(numbers)
    if values.dtype.kind in "iu":
        good &= numbers.astype(np.float64) == values
    if not good.all():
        where = np.argwhere(~good)[0]
        found = f"{values[tuple(where)]} in row {start + where[0]}"
        raise columns.mismatch(name, "finite float32 numbers", found)
    return numbers


class _NpzColumns:
    """An .npz file."""

    def __init__(self, archive: Archive):
        self._archive = archive

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._archive.headers))

    def column(self, name: str) -> Column:
        header = self._archive.headers.get(name)
        if header is None:
            found = f"only {', '.join(self.names())}"
            raise self.mismatch(name, "an array", found)
        return Column(header.shape, header.dtype)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._archive.rows(name, start, stop)

    def mismatch(self, name: str, expected: str, found: object) -> ValueError:
        return self._archive.mismatch(name, expected, _text(found))


class _Hdf5Columns:
    """An HDF5 file."""

    def __init__(self, file: h5py.File):
        self._file = file

    def names(self) -> tuple[str, ...]:
        return datasets_below(self._file)

    def column(self, name: str) -> Column:
        item = dataset(self._file, name)
        return Column(item.shape, item.dtype)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return read_rows(self._file, name, slice(start, stop))

    def mismatch(self, name: str, expected: str, found: object) -> ValueError:
        return mismatch(self._file, name, expected, _text(found))


def _text(found: object) -> object:
    if isinstance(found, Column):
        return f"{found.dtype} {list(found.shape)}"
    return found
