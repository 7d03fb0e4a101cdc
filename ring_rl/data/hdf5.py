"""HDF5 files opened and read with errors that say which file, dataset and row."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32, Shaped


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading.

    Raises:
      ValueError: one line that starts with the path, if it is not a whole HDF5 file.
    """
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise ValueError(f"{path}: expected an HDF5 file, found {found}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected a complete HDF5 file, found {reason}"
        ) from error
    with file:
        yield file


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset of that name.

    Raises:
      ValueError: if there is none; with the names that there are.
    """
    # Asking for a dangling link's item raises KeyError, get() does not.
    item = file.get(name)
    if not isinstance(item, h5py.Dataset):
        raise mismatch(file, name, "a dataset", f"only {', '.join(sorted(file))}")
    return item


def datasets_below(file: h5py.File, group: str) -> tuple[str, ...]:
    """Full names of the datasets in a group and its groups; none where it is absent."""
    names: list[str] = []

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(f"{group}/{name}")

    place = file.get(group)
    if isinstance(place, h5py.Group):
        place.visititems(collect)
    return tuple(sorted(names))


def read_rows(
    file: h5py.File, name: str, rows: slice
) -> Shaped[np.ndarray, "steps *shape"]:
    """These rows of a dataset, in the machine's byte order.

    Raises:
      ValueError: if they cannot be read.
    """
    try:
        values = dataset(file, name)[rows]
    except OSError as error:  # a chunk that does not unpack
        reason = " ".join(str(error).split())
        where = f"readable rows {rows.start} to {rows.stop}"
        raise mismatch(file, name, where, reason) from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def read_finite(
    file: h5py.File, name: str, rows: slice
) -> Float32[np.ndarray, "steps *shape"]:
    """These rows of a dataset as float32.

    Raises:
      ValueError: if one of them is not finite as float32, or cannot be read.
    """
    with np.errstate(over="ignore"):  # too large for float32: not finite, and so found
        values = read_rows(file, name, rows).astype(np.float32, copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        found = f"{values[tuple(where)]} in row {rows.start + where[0]}"
        raise mismatch(file, name, "finite float32 numbers", found)
    return values


def mismatch(file: h5py.File, name: str, expected: str, found: object) -> ValueError:
    """The error about a dataset; what was found may be the dataset itself."""
    if isinstance(found, h5py.Dataset):
        found = f"{found.dtype} {list(found.shape or ())}"
    return ValueError(f"{file.filename}: {name}: expected {expected}, found {found}")
