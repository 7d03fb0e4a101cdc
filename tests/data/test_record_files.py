import struct
import tracemalloc

import pytest
from google_crc32c import value

from ring_rl.data.rlds.record_files import read_array_record, read_tfrecord

# with tf.io.TFRecordWriter(path) as file: file.write(b""); file.write(b"abc")
GOLDEN = bytes.fromhex(
    "000000000000000029039807d8ea82a20300000000000000b099490e6162636e57f121"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tfrecord"


def masked(data):
    crc = value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def framed(data, length=None):
    header = struct.pack("<Q", len(data) if length is None else length)
    return header + masked(header) + data + masked(data)


def test_what_tensorflow_writes_is_read(path):
    path.write_bytes(GOLDEN)
    assert list(read_tfrecord(path)) == [b"", b"abc"]
    assert framed(b"") + framed(b"abc") == GOLDEN


def test_an_empty_file_has_no_records(path):
    path.write_bytes(b"")
    assert list(read_tfrecord(path)) == []


@pytest.mark.parametrize("stop", range(1, len(GOLDEN)))
def test_a_truncated_file_is_refused(path, stop):
    path.write_bytes(GOLDEN[:stop])
    records = read_tfrecord(path)
    if stop >= 16:
        assert next(records) == b""
    if stop == 16:  # between records there is nothing to see
        assert list(records) == []
        return
    with pytest.raises(ValueError, match=f"record {int(stop > 16)}: expected") as error:
        next(records)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("bit", range(8 * len(GOLDEN)))
def test_an_altered_bit_is_refused(path, bit):
    altered = bytearray(GOLDEN)
    altered[bit // 8] ^= 1 << bit % 8
    path.write_bytes(altered)
    with pytest.raises(ValueError, match=r": record [01]: expected the checksum"):
        list(read_tfrecord(path))


@pytest.mark.parametrize("length", [4, 100, 2**31, 2**63, 2**64 - 1])
def test_an_absurd_length_costs_no_memory(path, length):
    path.write_bytes(framed(b"") + framed(b"abc", length))
    records = read_tfrecord(path)
    next(records)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"record 1: expected {length} bytes and a"):
        next(records)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("read", [read_tfrecord, read_array_record])
def test_what_is_no_file_is_refused(tmp_path, read):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="expected .* found") as error:
            list(read(path))
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
