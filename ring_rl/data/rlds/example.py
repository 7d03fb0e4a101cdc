"""The wire format of `tf.train.Example`, from bytes to NumPy arrays.

An Example is a map from names to lists of one kind: bytes, float32 or int64. Here a
list becomes an array at once; protobuf's own classes make a Python object of every
number. What is a valid message, and what is meant by one that repeats fields or has
unknown ones, is as in protobuf.

Source: https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Container
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Int64

from ring_rl.data.rlds.wire import (
    BYTES,
    FIXED32,
    LONGEST_VARINT,
    VARINT,
    fields,
    varint,
)

Values: TypeAlias = np.ndarray | list[bytes]

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_FLOAT32 = np.dtype("<f4")


def parse_example(
    data: bytes, names: Container[str] | None = None
) -> dict[str, Values]:
    """The lists of a serialised Example by name; a feature without a list is absent.

    Arrays own their memory. They are float32 `[n]`, int64 `[n]`, and for bytes uint8
    `[n size]` where all n items have one size; items of several are a list of bytes.

    Args:
      data: one message.
      names: of the features that are wanted; what others hold is not looked at.

    Raises:
      ValueError: one line, if it is not a valid message; it names the feature.
    """
    found: dict[str, Values] = {}
    for number, wire, start, stop in fields(data, 0, len(data)):
        if number != 1 or wire != BYTES:
            continue
        for number, wire, begin, end in fields(data, start, stop):
            if number != 1 or wire != BYTES:
                continue
            name, parts = _entry(data, begin, end)
            if names is not None and name not in names:
                continue
            try:
                values = _feature(data, parts)
            except ValueError as error:
                raise ValueError(f"feature {name[:100]!r}: {error}") from error
            if values is not None:
                found[name] = values
            else:  # of entries with one name the last counts
                found.pop(name, None)
    return found


def _entry(data: bytes, start: int, stop: int) -> tuple[str, list[tuple[int, int]]]:
    """The name of a map entry, and where the parts of its feature are."""
    begin, end = _first_item(data, start, stop)
    if start < end < stop and data[end] == 2 << 3 | BYTES:
        size, at = varint(data, end + 1, stop)
        if at + size == stop:  # a name and a feature, as every writer has it
            return _name(data, begin, end), [(at, stop)]
    name = ""
    parts: list[tuple[int, int]] = []
    for number, wire, begin, end in fields(data, start, stop):
        if wire == BYTES and number == 1:
            name = _name(data, begin, end)
        elif wire == BYTES and number == 2:
            parts.append((begin, end))
    return name, parts


def _name(data: bytes, start: int, stop: int) -> str:
    """The name of a feature."""
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected the name of a feature in UTF-8, found {data[start:stop][:100]!r}"
        ) from error


def _feature(data: bytes, parts: list[tuple[int, int]]) -> Values | None:
    """The values of a feature: of the last kind of list in it, all lists in turn."""
    if len(parts) == 1:
        start, stop = parts[0]
        kind = data[start] >> 3 if start < stop and data[start] & 7 == BYTES else 0
        if kind in _READERS:
            size, at = varint(data, start + 1, stop)
            if at + size == stop:  # one list, as every writer has it
                return _READERS[kind](data, at, stop)
    kind = 0
    lists: list[Values] = []
    for start, stop in parts:
        for number, wire, begin, end in fields(data, start, stop):
            if wire != BYTES or number not in _READERS:
                continue
            if number != kind:
                kind, lists = number, []
            lists.append(_READERS[number](data, begin, end))
    if len(lists) <= 1:
        return lists[0] if lists else None
    if kind == _BYTES_LIST:
        return _one_size([item for items in lists for item in _listed(items)])
    return np.concatenate(lists)


def _floats(data: bytes, start: int, stop: int) -> Float32[np.ndarray, " n"]:
    """The numbers of a list of floats, four bytes each."""
    begin, end = _first_item(data, start, stop)
    if start < begin < end == stop and not (end - begin) % 4:  # packed, in one copy
        return np.frombuffer(data, _FLOAT32, (end - begin) // 4, begin).astype("f4")
    chunks = _chunks(data, start, stop, FIXED32)
    for chunk in chunks:
        if len(chunk) % 4:
            raise ValueError(f"expected whole floats, found {len(chunk)} bytes")
    return np.frombuffer(b"".join(chunks), _FLOAT32).astype("f4")


def _integers(data: bytes, start: int, stop: int) -> Int64[np.ndarray, " n"]:
    """The numbers of a list of integers: seven bits a byte, the lowest first."""
    chunks = _chunks(data, start, stop, VARINT)
    for chunk in chunks:
        if chunk and chunk[-1] >= 0x80:
            raise ValueError(f"expected whole integers, found {len(chunk)} bytes")
    joined = b"".join(chunks)
    raw = np.frombuffer(joined, np.uint8)
    if joined.isascii():  # every integer is one byte
        return raw.astype(np.int64)
    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > LONGEST_VARINT:
        raise ValueError(
            f"expected integers of {LONGEST_VARINT} bytes at most, found {longest}"
        )
    values = np.zeros(len(ends), np.uint64)
    for place in range(longest):
        # Bits beyond the 64th fall off, as in protobuf.
        longer = lengths > place
        septets = raw[starts[longer] + place] & 0x7F
        values[longer] |= septets.astype(np.uint64) << np.uint64(7 * place)
    return values.view(np.int64)


def _chunks(data: bytes, start: int, stop: int, single: int) -> list[bytes]:
    """The bytes of a list's numbers: packed ones, and single ones of a wire type."""
    begin, end = _first_item(data, start, stop)
    if end == stop:
        return [data[begin:end]]
    return [
        data[begin:end]
        for number, wire, begin, end in fields(data, start, stop)
        if number == 1 and wire in (BYTES, single)
    ]


def _items(data: bytes, start: int, stop: int) -> Values:
    """The items of a list of bytes."""
    begin, end = _first_item(data, start, stop)
    header, stride = begin - start, end - start
    # Where all have one size, all their headers (tag and size) are the same bytes.
    if stride > header and not (stop - start) % stride:
        rows = (stop - start) // stride
        for at in range(start, begin):
            if data[at:stop:stride].count(data[at]) != rows:
                break
        else:
            block = np.frombuffer(data, np.uint8, stop - start, start)
            return block.reshape(rows, stride)[:, header:].copy()
    return _one_size(
        [
            data[begin:end]
            for number, wire, begin, end in fields(data, start, stop)
            if number == 1 and wire == BYTES
        ]
    )


def _first_item(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Start and stop of the value if a list begins with bytes, else `start` twice."""
    if stop - start < 2 or data[start] != 1 << 3 | BYTES:
        return start, start
    size = data[start + 1]
    if size < 0x80:
        return start + 2, start + 2 + size
    size, at = varint(data, start + 1, stop)
    return at, at + size


def _one_size(items: list[bytes]) -> Values:
    """`[n size]` uint8 if the items have one size, else the items."""
    size = len(items[0]) if items else 0
    if any(len(item) != size for item in items):
        return items
    return np.frombuffer(b"".join(items), np.uint8).reshape(len(items), size).copy()


def _listed(items: Values) -> list[bytes]:
    """The items of either form."""
    return items if isinstance(items, list) else [item.tobytes() for item in items]


_READERS = {_BYTES_LIST: _items, _FLOAT_LIST: _floats, _INT64_LIST: _integers}
