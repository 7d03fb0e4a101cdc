"""HDF5 files opened and read with errors that say which file, dataset and row.

A file may come from anyone. Only values that are stored in the file itself are read:
no link but hard ones is followed, no other file is opened, no filter is loaded. Sizes
that a file declares are held against what it stores before memory is taken for them.
"""

import contextlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32, Shaped

# Deflate, shuffle, Fletcher32, szip, n-bit, scale-offset and LZF, which are part of
# HDF5 or h5py. Any other would be looked for among the plugins of the machine.
_FILTERS = frozenset([*range(1, 7), 32000])
# Deflate packs 1032 bytes into one at most. What a file never stored reads as zeros:
# a few are fine.
_DEFLATE = 1
_CHECKSUM, _CHECKSUM_BYTES = 3, 4  # Fletcher32, at the end of a chunk
_LARGEST_RATIO = 1032
_FREE_BYTES = 1 << 26
_LARGEST_CHUNK = 1 << 28  # bytes; a chunk is unpacked whole
_h5: Any = h5py  # whose annotations lack the low-level modules
_DEEPEST = 32  # groups within groups


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
    except Exception as error:  # h5py raises many kinds at a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected a complete HDF5 file, found {reason}"
        ) from error
    with file:
        yield file


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset of that name, all of whose values are stored in the file.

    Raises:
      ValueError: if there is none, with the names that there are; if it is a link, its
        values lie in other files, or it declares sizes that are not there.
    """
    item = _follow(file, name)
    if not isinstance(item, h5py.Dataset):
        raise mismatch(file, name, "a dataset", f"only {', '.join(group_names(file))}")
    with naming_damage(file, name):
        dtype, shape, chunk = item.dtype, item.shape, item.chunks
        elsewhere = item.is_virtual or bool(item.external)
        filters = _filters(item)
        stored = item.id.get_storage_size()
        file_bytes = file.id.get_filesize()
    if elsewhere:
        raise mismatch(file, name, "values in the file itself", "those of other files")
    if shape is None:
        raise mismatch(file, name, "values", "an empty dataspace")
    unknown = [number for number in filters if number not in _FILTERS]
    if unknown or filters.count(_DEFLATE) > 1:
        expected = "filters that HDF5 brings, deflate once"
        raise mismatch(file, name, expected, f"numbers {filters}")
    declared = _product(shape) * dtype.itemsize
    if declared > _FREE_BYTES + _LARGEST_RATIO * min(stored, file_bytes):
        expected = f"{declared} bytes of values as declared"
        raise mismatch(file, name, expected, f"{stored} bytes stored")
    if chunk is not None and _product(chunk) * dtype.itemsize > _LARGEST_CHUNK:
        expected = f"chunks of {_LARGEST_CHUNK} bytes at most"
        raise mismatch(file, name, expected, f"chunks of {list(chunk)} {dtype}")
    return item


def datasets_below(file: h5py.File, group: str = "") -> tuple[str, ...]:
    """Full names of the datasets in a group and its groups; none where it is absent.

    Raises:
      ValueError: if something in it is a link, or the groups do not form a tree.
    """
    place = _follow(file, group)
    if not isinstance(place, h5py.Group):
        return ()
    names: list[str] = []
    seen: set[int] = set()

    def walk(place: h5py.Group, prefix: str) -> None:
        with naming_damage(file, prefix):
            address = _h5.h5o.get_info(place.id).addr
        if address in seen or prefix.count("/") >= _DEEPEST:
            raise mismatch(file, prefix, "groups that form a tree", "a loop of them")
        seen.add(address)
        for member in group_names(file, place, prefix):
            item = _member(file, place, member, f"{prefix}{member}")
            if isinstance(item, h5py.Dataset):
                names.append(f"{prefix}{member}")
            elif isinstance(item, h5py.Group):
                walk(item, f"{prefix}{member}/")

    walk(place, f"{group}/" if group else "")
    return tuple(sorted(names))


def group_names(
    file: h5py.File, place: h5py.Group | None = None, name: str = "/"
) -> list[str]:
    """The names in a group, the file's root unless given, sorted.

    Raises:
      ValueError: if they cannot be read.
    """
    with naming_damage(file, name):
        return sorted(file if place is None else place)


def read_rows(
    file: h5py.File, name: str, rows: slice
) -> Shaped[np.ndarray, "steps *shape"]:
    """These rows of a dataset, in the machine's byte order.

    Raises:
      ValueError: if they cannot be read.
    """
    item = dataset(file, name)
    _check_chunks(file, name, item, rows)
    try:
        values = np.asarray(item[rows])
    except Exception as error:  # a chunk that does not unpack, and worse
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


@contextlib.contextmanager
def naming_damage(file: h5py.File, name: str) -> Iterator[None]:
    """Turns whatever h5py raises at a damaged file into one line about `name`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{file.filename}:"):
            raise  # it says so already
        raise _damaged(file, name, error) from error


def mismatch(file: h5py.File, name: str, expected: str, found: object) -> ValueError:
    """The error about a dataset; what was found may be the dataset itself."""
    if isinstance(found, h5py.Dataset):
        found = f"{found.dtype} {list(found.shape or ())}"
    name = "".join(sign if sign.isprintable() else "?" for sign in name)
    return ValueError(f"{file.filename}: {name}: expected {expected}, found {found}")


def _check_chunks(file: h5py.File, name: str, item: h5py.Dataset, rows: slice) -> None:
    """Refuses chunks of these rows that HDF5 would trust too much.

    It ends the process at one too short for its checksum, and makes room for all that
    another unpacks to, however much more than a chunk that is.
    """
    chunk: tuple[int, ...] | None = item.chunks
    if chunk is None:
        return
    room = _product(chunk) * item.dtype.itemsize
    first = range(rows.start // chunk[0] * chunk[0], rows.stop, chunk[0])
    others = [range(0, *pair) for pair in zip(item.shape[1:], chunk[1:], strict=True)]
    with naming_damage(file, name):
        filters = _filters(item)
        least, most = room, room
        if filters:
            least = 1 + _CHECKSUM_BYTES * (_CHECKSUM in filters)
            most = file.id.get_filesize()
        for place in itertools.product(first, *others):
            stored = item.id.get_chunk_info_by_coord(place)
            if stored.byte_offset is None:  # never written
                continue
            if not least <= stored.size <= most:
                found = f"{stored.size} in the one at {list(place)}"
                raise mismatch(file, name, f"chunks of {room} bytes packed", found)
            deflated = _DEFLATE in filters and not (
                stored.filter_mask >> filters.index(_DEFLATE) & 1
            )
            if deflated and stored.size * _LARGEST_RATIO > _FREE_BYTES:
                _, content = item.id.read_direct_chunk(place)
                unpacked = zlib.decompressobj().decompress(content, room + 1)
                if len(unpacked) > room:
                    found = f"more in the one at {list(place)}"
                    raise mismatch(file, name, f"chunks of {room} bytes", found)


def _filters(item: h5py.Dataset) -> list[int]:
    """The numbers of the filters of a dataset, in the order in which they pack."""
    creation = item.id.get_create_plist()
    return [creation.get_filter(place)[0] for place in range(creation.get_nfilters())]


def _follow(file: h5py.File, name: str) -> object:
    """What stands at that name, reached by hard links; None where there is nothing."""
    place: object = file
    for part in name.split("/") if name else ():
        if not isinstance(place, h5py.Group) or not part:
            return None
        place = _member(file, place, part, name)
    return place


def _member(file: h5py.File, place: h5py.Group, part: str, name: str) -> object:
    """One member of a group, or None; the path `name` is for the error."""
    with naming_damage(file, name):
        # Group.get() would follow links to find out whether there is something.
        links: Any = place.id.links
        if not links.exists(part.encode()):
            return None
        link = links.get_info(part.encode()).type
    if link != _h5.h5l.TYPE_HARD:
        kind = "external" if link == _h5.h5l.TYPE_EXTERNAL else "soft"
        raise mismatch(file, name, "values in the file itself", f"a link ({kind})")
    with naming_damage(file, name):
        return place[part]


def _damaged(file: h5py.File, name: str, error: Exception) -> ValueError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return mismatch(file, name, "a readable HDF5 object", reason)


def _product(shape: tuple[int, ...]) -> int:
    """Entries of an array of that shape; NumPy's product would overflow."""
    entries = 1
    for size in shape:
        entries *= int(size)
    return entries
