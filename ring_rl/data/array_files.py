"""Arrays in .npy files: grown row by row, and mapped."""

from pathlib import Path

import numpy as np


class ArrayFile:
    """A column that is a .npy file from the start."""

    def __init__(self, folder: Path, name: str, like: np.ndarray):
        """Opens the file of the array of that name, for rows like those given."""
        self._path = folder / file_name(name)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._row, self._dtype, self._count = like.shape[1:], like.dtype, 0
        self._file = self._path.open("w+b")
        self._write_header()

    def _write_header(self) -> None:
        """The header; NumPy leaves room in it for the number of rows to grow."""
        self._file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._row),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Adds rows."""
        self._file.write(np.ascontiguousarray(values).data)
        self._count += len(values)

    def finish(self) -> np.ndarray:
        """All rows, mapped."""
        end = self._file.tell()
        self._write_header()
        self._file.close()
        assert self._path.stat().st_size == end
        return map_array(self._path)


def file_name(name: str) -> str:
    """Of the array of that name; slashes of an extra array are no folders."""
    return name.replace("%", "%25").replace("/", "%2F") + ".npy"


def map_array(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped, as a plain array."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a NumPy array, found {reason}") from error
