"""Record files, one record at a time: TFRecord's framing, and array_record.

A TFRecord file is a row of records: length (8 bytes, little-endian), masked CRC32C of
those 8 bytes, data, masked CRC32C of the data. It has neither header nor end.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file; one is in memory at a time.

    Raises:
      ValueError: naming file and record, at one that is cut off or was altered.
    """
    from google_crc32c import value

    def checked(index: int, what: str, data: bytes, expected: int) -> None:
        """Compares a checksum, which is masked: data may hold checksums itself."""
        crc = value(data)
        found = ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
        if found != expected:
            raise ValueError(
                f"{path}: record {index}: expected the checksum {expected:08x} of its "
                f"{what}, found {found:08x}"
            )

    try:
        with path.open("rb") as file:
            left = path.stat().st_size
            index = 0
            while left:
                header = file.read(_HEADER.size)
                if len(header) != _HEADER.size:
                    raise ValueError(
                        f"{path}: record {index}: expected {_HEADER.size} bytes of its "
                        f"length, found {len(header)}"
                    )
                length, crc = _HEADER.unpack(header)
                checked(index, "length", header[:8], crc)
                left -= _HEADER.size + length + _FOOTER.size
                if left < 0:  # asked for before that much memory is
                    raise ValueError(
                        f"{path}: record {index}: expected {length} bytes and a "
                        f"checksum, found {-left} bytes less"
                    )
                data = file.read(length)
                (crc,) = _FOOTER.unpack(file.read(_FOOTER.size))
                checked(index, "data", data, crc)
                yield data
                index += 1
    except (OSError, struct.error) as error:  # the latter if it shrinks meanwhile
        raise ValueError(
            f"{path}: expected a readable file, found {' '.join(str(error).split())}"
        ) from error


def read_array_record(path: Path) -> Iterator[bytes]:
    """The records of an array_record file, which has checksums of its own.

    Raises:
      ValueError: naming the file and the record that cannot be read.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    index = 0
    try:
        # In order and without threads: one group of records in memory, and no wait.
        options = "readahead_buffer_size:0,max_parallelism:0"
        reader = ArrayRecordReader(str(path), options)
        try:
            while index < reader.num_records():
                yield reader.read()
                index += 1
        finally:
            reader.close()
    except (OSError, RuntimeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path}: record {index}: expected an array_record file's record, found "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


READERS = {"array_record": read_array_record, "tfrecord": read_tfrecord}
