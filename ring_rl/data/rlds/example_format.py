"""NumPy arrays to the wire format of `tf.train.Example`: the inverse of `example`.

Names are in alphabetical order, so that the same lists have the same bytes.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from ring_rl.data.rlds.example import Values

# Tags of strings: a field's number times eight, plus two.
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"


def format_example(features: Mapping[str, Values]) -> bytes:
    """A serialised Example of these lists, given as `parse_example` returns them.

    Raises:
      ValueError: for an array that is neither float32 `[n]`, int64 `[n]` nor uint8
        `[n size]`.
    """
    entries = [
        _field(
            _FIRST,
            _field(_FIRST, name.encode()) + _field(_SECOND, _feature(name, values)),
        )
        for name, values in sorted(features.items())
    ]
    return _field(_FIRST, b"".join(entries))


def _feature(name: str, values: Values) -> bytes:
    """A feature: one list of a kind."""
    if isinstance(values, list):
        return _field(_FIRST, b"".join(_field(_FIRST, item) for item in values))
    match values.dtype, values.ndim:
        case np.uint8, 2:
            return _field(_FIRST, _rows(values))
        case np.float32, 1:
            packed, tag = values.astype("<f4", copy=False).tobytes(), _SECOND
        case np.int64, 1:
            packed, tag = _varints(values), _THIRD
        case dtype, _:
            raise ValueError(
                f"feature {name!r}: expected float32 [n], int64 [n] or uint8 [n size], "
                f"found {dtype} {list(values.shape)}"
            )
    return _field(tag, _field(_FIRST, packed) if packed else b"")


def _rows(values: np.ndarray) -> bytes:
    """The items of a list of bytes of one size."""
    rows, size = values.shape
    header = _FIRST + _varint(size)
    items = np.empty((rows, len(header) + size), np.uint8)
    items[:, : len(header)] = np.frombuffer(header, np.uint8)
    items[:, len(header) :] = values
    return items.tobytes()


def _varints(values: Int64[np.ndarray, " n"]) -> bytes:
    """Integers of seven bits a byte, the lowest first, the last byte below 128."""
    numbers = values.view(np.uint64)
    if not len(numbers) or numbers.max() < 0x80:
        return numbers.astype(np.uint8).tobytes()
    thresholds = np.left_shift(np.uint64(1), np.arange(7, 64, 7, dtype=np.uint64))
    lengths = 1 + np.searchsorted(thresholds, numbers, side="right")
    starts = np.cumsum(lengths) - lengths
    packed = np.empty(int(lengths.sum()), np.uint8)
    for place in range(int(lengths.max())):
        longer = lengths > place
        septets = numbers[longer] >> np.uint64(7 * place) & np.uint64(0x7F)
        more = np.where(lengths[longer] > place + 1, 0x80, 0).astype(np.uint8)
        packed[starts[longer] + place] = septets.astype(np.uint8) | more
    return packed.tobytes()


def _field(tag: bytes, value: bytes) -> bytes:
    """A field of bytes."""
    return tag + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    """A number of seven bits a byte."""
    septets = bytearray()
    while number >= 0x80:
        septets.append(number & 0x7F | 0x80)
        number >>= 7
    septets.append(number)
    return bytes(septets)
