"""Features of a record as columns: one array `[rows ...]` from the values of one name.

What is declared must be what is there: numbers that do not fit their type, and rows of
another size than their shape says, are refused and not cast.
"""

import zlib

import numpy as np
from jaxtyping import Shaped

from ring_rl.data.rlds.example import Values
from ring_rl.data.rlds.tfds_files import Feature

_LARGEST_COLUMN = 512 << 20  # bytes that compressed rows of one record may become


def decode_column(
    values: Values | None, feature: Feature
) -> Shaped[np.ndarray, "rows *shape"]:
    """The rows of a feature.

    Args:
      values: as `parse_example` gives them; None where the record has none.
      feature: what they are declared to be.

    Raises:
      ValueError: if they are something else.
    """
    if values is None:
        raise ValueError("expected values, found none")
    if feature.encoding == "none":
        flat = _numbers(values, feature)
        if len(flat) % feature.size:
            raise ValueError(
                f"expected rows of {feature.size} numbers, found {len(flat)} in all"
            )
        return flat.reshape(-1, *feature.shape)
    size = feature.size * feature.dtype.itemsize
    if feature.encoding == "zlib":
        values = _unpacked(values, size)
    if not len(values):
        return np.zeros((0, *feature.shape), feature.dtype)
    if isinstance(values, list) or values.dtype != np.uint8 or values.shape[1] != size:
        raise ValueError(f"expected strings of {size} bytes, found {_kind(values)}")
    if feature.dtype == bool and values.max() > 1:
        raise ValueError(f"expected bytes 0 and 1, found {values.max()}")
    little = feature.dtype.newbyteorder("<")
    numbers = values.view(little).astype(feature.dtype, copy=False)
    return numbers.reshape(-1, *feature.shape)


def exactly(
    values: Shaped[np.ndarray, "*shape"], dtype: np.dtype
) -> Shaped[np.ndarray, "*shape"]:
    """Integers or booleans as another type.

    Raises:
      ValueError: at the first that the type cannot hold.
    """
    cast = values.astype(dtype)
    different = cast != values
    if different.any():
        raise ValueError(f"expected {dtype} numbers, found {values[different][0]}")
    return cast


def _numbers(values: Values, feature: Feature) -> Shaped[np.ndarray, " n"]:
    """Numbers that are stored as such, in the type that is declared."""
    stored = np.float32 if feature.dtype.kind == "f" else np.int64
    if isinstance(values, list) or values.dtype != stored:
        raise ValueError(f"expected {np.dtype(stored)} numbers, found {_kind(values)}")
    if feature.dtype == stored:
        return values
    if feature.dtype == np.uint64:
        return values.view(np.uint64)  # as TFDS puts them into int64
    if feature.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinite then, and found to be later
            return values.astype(feature.dtype)
    if feature.dtype == bool and values.view(np.uint64).max(initial=0) <= 1:
        return values.astype(bool)
    return exactly(values, feature.dtype)


def _unpacked(values: Values, size: int) -> Values:
    """Compressed rows as they were: `[n size]` uint8."""
    if len(values) * size > _LARGEST_COLUMN:
        raise ValueError(
            f"expected {_LARGEST_COLUMN} bytes at most, found {len(values)} rows of "
            f"{size}"
        )
    if not isinstance(values, list) and values.dtype != np.uint8:
        raise ValueError(f"expected compressed strings, found {_kind(values)}")
    rows = np.empty((len(values), size), np.uint8)
    for index, packed in enumerate(values):
        unpacker = zlib.decompressobj()
        try:
            row = unpacker.decompress(bytes(packed), size + 1)
        except zlib.error as error:
            raise ValueError(f"expected zlib in row {index}, found {error}") from error
        if len(row) != size or not unpacker.eof:
            raise ValueError(
                f"expected {size} bytes compressed in row {index}, found "
                f"{'more' if len(row) > size else f'{len(row)} or a part of them'}"
            )
        rows[index] = np.frombuffer(row, np.uint8)
    return rows


def _kind(values: Values) -> str:
    """What values are, for a message."""
    if isinstance(values, list):
        return "strings of several sizes"
    if values.dtype == np.uint8:
        return f"strings of {values.shape[1]} bytes"
    return f"{values.dtype} numbers"
