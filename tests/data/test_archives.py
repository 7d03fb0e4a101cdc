import io
import re
import warnings
import zipfile

import numpy as np
import pytest

from ring_rl.data.formats.archives import open_npz

ARRAYS = {
    "a": np.arange(12, dtype=">f8").reshape(4, 3),
    "deep/b": np.asfortranarray(np.arange(8, dtype=np.int16).reshape(4, 2)),
    "flags": np.array([True, False, True, True]),
    "names": np.array(["x", "ye", "z", ""]),
    "none": np.zeros((0, 3), np.float32),
}


@pytest.fixture(params=[np.savez, np.savez_compressed])
def path(request, tmp_path):
    request.param(tmp_path / "arrays.npz", **ARRAYS)
    return tmp_path / "arrays.npz"


def test_arrays_come_back_whole_and_in_rows(path):
    with open_npz(path) as archive:
        assert set(archive.headers) == set(ARRAYS)
        for name, values in ARRAYS.items():
            native = values.astype(values.dtype.newbyteorder("="))
            np.testing.assert_array_equal(archive.read(name), native, strict=True)
            parts = ((0, 1), (1, 3), (3, 4), (0, 4), (2, 4))
            for start, stop in np.minimum(parts, len(values)).tolist():
                rows = archive.rows(name, start, stop)
                np.testing.assert_array_equal(rows, native[start:stop], strict=True)
        with pytest.raises(ValueError, match="c: expected an array, found only a,"):
            archive.read("c")


def npy(values, **changes):
    """The bytes of an array's file, its header's entries replaced."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, np.lib.format.header_data_from_array_1_0(values) | changes
    )
    return file.getvalue() + values.tobytes()


def write(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that come twice
        for name, content in members:
            file.writestr(name, content)


GOOD = npy(np.arange(3.0))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.npy", GOOD), ("a.npy", GOOD)], "a: expected one array of that name"),
        ([("../a.npy", GOOD)], "expected an array named NAME.npy"),
        ([("/etc/a.npy", GOOD)], "expected an array named NAME.npy"),
        ([("a.txt", b"hello")], "expected an array named NAME.npy"),
        ([("a.npy", b"hello")], "a: expected a readable .npy array"),
        ([("a.npy", GOOD[:40])], "a: expected a readable .npy array"),
        ([("a.npy", GOOD[:-1])], "a: expected 24 bytes as its header .*, found 23"),
        ([("a.npy", GOOD + b"x")], "a: expected 24 bytes as its header .*, found 25"),
        ([("a.npy", npy(np.zeros(3), shape=(1 << 40,)))], "expected 8796093022208 byt"),
        ([("a.npy", npy(np.zeros(3), shape=(-3,)))], "a: expected "),
        ([("a.npy", npy(np.zeros(3), descr="|O"))], "expected numbers or text"),
        ([("a.npy", npy(np.zeros(3), descr="<c8"))], "expected numbers or text"),
        ([("a.npy", npy(np.zeros(3), descr="os.system('x')"))], "a: expected a read"),
        ([("a.npy", bytes(1 << 24))], "a: expected a readable .npy array"),
        ([("a.npy", npy(np.zeros(1 << 24)))], "expected arrays of .* bytes together"),
        ([(f"a{i}.npy", GOOD) for i in range(1001)], "expected 1000 arrays at most"),
    ],
)
def test_bad_archives_are_named(tmp_path, members, message):
    path = tmp_path / "bad.npz"
    write(path, members)
    with pytest.raises(ValueError, match=message) as error, open_npz(path):
        pass
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_pickled_objects_are_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / "pickled.npz"
    np.savez(path, a=np.array([Trap()], object))
    with pytest.raises(ValueError, match="a: expected numbers or text, found object"):
        with open_npz(path):
            pass
    assert not (tmp_path / "executed").exists()


def test_a_flipped_byte_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "flipped.npz"
    write(path, [("a.npy", npy(np.arange(5000.0)))], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(np.float64(4000).tobytes()) + 6] ^= 1
    path.write_bytes(content)
    for read in (lambda a: a.read("a"), lambda a: a.rows("a", 1, 5000)):
        with open_npz(path) as archive:
            with pytest.raises(ValueError, match=r"a: expected .*, found Bad CRC-32 "):
                read(archive)


def test_members_that_share_bytes_are_refused(tmp_path):
    """The trick that makes a small archive unpack to a huge one without nesting."""
    path = tmp_path / "shared.npz"
    write(path, [("a.npy", GOOD), ("b.npy", GOOD)], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    second = [match.start() for match in re.finditer(b"PK\x01\x02", content)][1]
    content[second + 42 : second + 46] = bytes(4)  # the offset of the first
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected bytes of its own, found shared"):
        with open_npz(path):
            pass


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    for name in ("text.npz", "absent.npz", "."):
        with pytest.raises(ValueError, match="expected an .npz file, found"):
            with open_npz(tmp_path / name):
                pass
