"""NumPy's .npz files read safely: a zip archive may come from anyone.

Nothing is unpickled, evaluated or written to the disk. The directory of the archive and
the header of every array are held against each other and against the size of the file
before anything is unpacked.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

_SUFFIX = ".npy"
_LARGEST_RATIO = 1032  # of deflate: bytes that one packed byte can become
# What all arrays may hold together: so much, and so many times the file.
_FREE_BYTES = 1 << 26
_LARGEST_GROWTH = 100
_MOST_ARRAYS = 1000
_HEADER_BYTES = 4096  # of a .npy header; NumPy writes about 100
_PIECE_BYTES = 1 << 20  # unpacked at a time
_LONGEST_REASON = 200  # characters
_LOCAL_HEADER_BYTES = 30  # before every member of a zip archive, at least


class Header(NamedTuple):
    """What the header of an array says, and where its values begin in the member."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    start: int


class Archive:
    """An open .npz file: arrays by name, whole or some rows at a time.

    Attributes:
      path: the file.
      headers: of every array, by its name without `.npy`.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile):
        """Checks the directory and all headers; no array is unpacked."""
        self.path = path
        self._file = file
        self._streams: dict[str, tuple[Any, int]] = {}
        self._whole: dict[str, np.ndarray] = {}
        members = _checked_members(path, file)
        self.headers = {
            name: self._header(name, member) for name, member in members.items()
        }

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """A whole array, in the machine's byte order.

        Raises:
          ValueError: if there is none of that name, or it cannot be unpacked.
        """
        header = self._known(name)
        with self._open(name) as stream:
            values = self._values(stream, name, math.prod(header.shape), True)
        order = "F" if header.fortran_order else "C"
        return values.reshape(header.shape, order=order)

    def rows(self, name: str, start: int, stop: int) -> Shaped[np.ndarray, "rows ..."]:
        """Rows of an array along its first axis; cheap if they follow the last ones.

        Raises:
          ValueError: if there is none of that name, or it cannot be unpacked.
        """
        header = self._known(name)
        if header.fortran_order:  # its rows lie scattered
            if name not in self._whole:
                self._whole[name] = self.read(name)
            return self._whole[name][start:stop]
        width = math.prod(header.shape[1:])
        stream, position = self._streams.pop(name, (None, 0))
        if stream is None or position > start:
            if stream is not None:
                stream.close()
            stream, position = self._open(name), 0
        self._skip(stream, name, (start - position) * width * header.dtype.itemsize)
        last = stop == header.shape[0]
        values = self._values(stream, name, (stop - start) * width, last)
        self._streams[name] = stream, stop
        return values.reshape(stop - start, *header.shape[1:])

    def close(self) -> None:
        """Closes the streams of arrays that were read in part."""
        for stream, _ in self._streams.values():
            stream.close()
        self._streams.clear()

    def mismatch(self, name: str, expected: str, found: object) -> ValueError:
        """The error about an array; what was found may be its header."""
        if isinstance(found, Header):
            found = f"{found.dtype} {list(found.shape)}"
        return _mismatch(self.path, name, expected, found)

    def _open(self, name: str) -> Any:
        """A stream of the values of an array, past its header."""
        with self._unpacking(name):
            stream = self._file.open(name + _SUFFIX)
        self._skip(stream, name, self.headers[name].start)
        return stream

    def _known(self, name: str) -> Header:
        if name not in self.headers:
            found = f"only {', '.join(sorted(self.headers))}"
            raise self.mismatch(name, "an array", found)
        return self.headers[name]

    def _header(self, name: str, member: zipfile.ZipInfo) -> Header:
        """Reads and checks the header of an array against the member's size."""
        with self._unpacking(name), self._file.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            if version not in readers:
                raise ValueError(f".npy version {version}")
            # NumPy's reader takes literals only; it evaluates nothing.
            found = readers[version](stream, max_header_size=_HEADER_BYTES)
            header = Header(found[0], found[2], found[1], stream.tell())
        if header.dtype.kind not in "biufUS" or (
            header.dtype.kind in "biuf" and header.dtype.itemsize > 8
        ):
            raise self.mismatch(name, "numbers or text", header)
        if min(header.shape, default=0) < 0:
            raise self.mismatch(name, "sizes from 0", header)
        declared = math.prod(header.shape) * header.dtype.itemsize
        if declared != member.file_size - header.start:
            found = f"{member.file_size - header.start} bytes"
            raise self.mismatch(name, f"{declared} bytes as its header declares", found)
        return header

    def _values(
        self, stream: Any, name: str, count: int, last: bool
    ) -> Shaped[np.ndarray, " count"]:
        """The next values of an array; after the last ones its checksum is compared."""
        dtype = self.headers[name].dtype
        values = np.empty(count, dtype)
        buffer = values.view(np.uint8)
        filled = 0
        with self._unpacking(name):
            while filled < len(buffer):
                piece = stream.read(min(len(buffer) - filled, _PIECE_BYTES))
                if not piece:
                    raise ValueError(f"{filled} of {len(buffer)} bytes")
                end = filled + len(piece)
                buffer[filled:end] = np.frombuffer(piece, np.uint8)
                filled = end
            if last and stream.read(1):
                raise ValueError("further bytes")
        return values.astype(dtype.newbyteorder("="), copy=False)

    def _skip(self, stream: Any, name: str, count: int) -> None:
        with self._unpacking(name):
            while count:
                read = len(stream.read(min(count, _PIECE_BYTES)))
                if not read:
                    raise ValueError("fewer bytes")
                count -= read

    @contextlib.contextmanager
    def _unpacking(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # zipfile and zlib have many kinds
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason[:_LONGEST_REASON]  # zipfile shows what it cannot read
            raise self.mismatch(name, "a readable .npy array", reason) from error


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Archive]:
    """Opens an .npz file for reading.

    Raises:
      ValueError: one line that starts with the path, if it is not an archive of arrays
        of numbers or text whose sizes are believable.
    """
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise ValueError(f"{path}: expected an .npz file, found {found}")
    try:
        file = zipfile.ZipFile(path)
    except Exception as error:  # BadZipFile, and whatever a damaged directory brings
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: expected an .npz file, found {reason}") from error
    with file, contextlib.closing(Archive(path, file)) as archive:
        yield archive


def _checked_members(path: Path, file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by the names of their arrays."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = file.infolist()
    if len(infos) > _MOST_ARRAYS:
        raise ValueError(
            f"{path}: expected {_MOST_ARRAYS} arrays at most, found {len(infos)}"
        )
    for info in infos:
        name = info.filename.removesuffix(_SUFFIX)
        if not info.filename.endswith(_SUFFIX) or not _is_plain(name):
            raise _mismatch(path, name, "an array named NAME.npy", repr(info.filename))
        if name in members:
            raise _mismatch(path, name, "one array of that name", "a second one")
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            found = f"method {info.compress_type}, flags {info.flag_bits}"
            raise _mismatch(path, name, "a stored or deflated array", found)
        packed = info.compress_type == zipfile.ZIP_DEFLATED
        ratio = _LARGEST_RATIO if packed else 1
        if info.file_size > ratio * info.compress_size:
            found = f"{info.compress_size} bytes packed"
            raise _mismatch(path, name, f"{info.file_size} bytes as declared", found)
        members[name] = info
    _check_room(path, list(members.values()))
    return members


def _check_room(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuses members that overlap, and more values than such a file would hold."""
    size = path.stat().st_size
    end = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise _mismatch(path, info.filename, "bytes of its own", "shared ones")
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size
    if end > size:
        raise ValueError(f"{path}: expected {end} bytes at least, found {size}")
    total = sum(info.file_size for info in members)
    if total > _FREE_BYTES + _LARGEST_GROWTH * size:
        raise ValueError(
            f"{path}: expected arrays of {_FREE_BYTES + _LARGEST_GROWTH * size} bytes "
            f"together at most, found {total}"
        )


def _is_plain(name: str) -> bool:
    """Whether a name is made of printable parts between slashes, none a step up."""
    parts = name.split("/")
    return (
        name.isprintable()
        and "\\" not in name
        and not any(part in ("", ".", "..") for part in parts)
    )


def _mismatch(path: Path, name: str, expected: str, found: object) -> ValueError:
    name = "".join(sign if sign.isprintable() else "?" for sign in name)
    return ValueError(f"{path}: {name}: expected {expected}, found {found}")
