"""Fields of a protobuf message, found in its bytes.

Source: https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
LONGEST_VARINT = 10  # bytes
_DEEPEST_GROUP = 90  # of unknown groups, which are skipped


def fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and stop of the value of each field of a message.

    Unknown groups are passed over.

    Raises:
      ValueError: if a field is not what the format allows or ends beyond `stop`.
    """
    groups: list[int] = []  # that are open
    at = start
    while at < stop:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = varint(data, at - 1, stop, 5)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"expected a field's number, found {number} at byte {at}")
        begin = at
        if wire == BYTES:
            if at >= stop:
                raise _cut(at)
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = varint(data, at - 1, stop)
            begin = at
            at += size
        elif wire == VARINT:
            at = varint(data, at, stop)[1]
        elif wire == FIXED32:
            at += 4
        elif wire == FIXED64:
            at += 8
        elif wire == GROUP and len(groups) < _DEEPEST_GROUP:
            groups.append(number)
            continue
        elif wire == GROUP_END and groups and groups.pop() == number:
            continue
        else:
            raise ValueError(f"expected a field, found wire type {wire} at byte {at}")
        if at > stop:
            raise _cut(begin)
        if not groups:
            yield number, wire, begin, at
    if groups:
        raise _cut(stop)


def varint(
    data: bytes, at: int, stop: int, limit: int = LONGEST_VARINT
) -> tuple[int, int]:
    """The number at a byte, and the byte after it."""
    if at + 3 <= stop:  # nearly all are this short: sizes below two million
        first, second, third = data[at : at + 3]
        if first < 0x80:
            return first, at + 1
        if second < 0x80:
            return first & 0x7F | second << 7, at + 2
        if third < 0x80:
            return first & 0x7F | (second & 0x7F) << 7 | third << 14, at + 3
    value = 0
    for place in range(0, 7 * limit, 7):
        if at >= stop:
            raise _cut(at)
        byte = data[at]
        at += 1
        if byte < 0x80:
            return value | byte << place, at
        value |= (byte & 0x7F) << place
    raise ValueError(f"expected a number of {limit} bytes at most before byte {at}")


def _cut(at: int) -> ValueError:
    """The error where something ends beyond what holds it."""
    return ValueError(f"expected a whole field, found its end missing at byte {at}")
