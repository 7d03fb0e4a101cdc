"""What a file may not make us do; `test_hostile` has thousands more."""

import zlib

import h5py
import numpy as np
import pytest

from ring_rl.data.formats.hdf5 import dataset, datasets_below, open_hdf5, read_rows

VALUES = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def refused(tmp_path):
    """Writes a file with a function; the message about its dataset `a`."""

    def refused(write):
        path = tmp_path / "a.hdf5"
        with h5py.File(path, "w") as file:
            write(file)
        with open_hdf5(path) as file, pytest.raises(ValueError) as error:
            read_rows(file, "a", slice(0, 6))
        message = str(error.value)
        assert "\n" not in message
        return message.removeprefix(f"{path}: a: ")

    return refused


def test_links_and_other_files_are_not_followed(refused, tmp_path):
    other = tmp_path / "other.hdf5"
    with h5py.File(other, "w") as file:
        file["a"] = VALUES

    def virtual(file):
        layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
        layout[...] = h5py.VirtualSource(str(other), "a", VALUES.shape)
        file.create_virtual_dataset("a", layout)

    inside = "expected values in the file itself, found "
    for write, found in (
        (lambda f: f.update(a=h5py.ExternalLink(str(other), "a")), "a link (external)"),
        (lambda f: f.update(b=VALUES, a=h5py.SoftLink("b")), "a link (soft)"),
        (lambda f: f.update(a=h5py.SoftLink("a")), "a link (soft)"),
        (virtual, "those of other files"),
        (
            lambda f: f.create_dataset(
                "a", (6, 2), "f4", external=[(str(other), 0, 48)]
            ),
            "those of other files",
        ),
    ):
        assert refused(write) == inside + found


def test_groups_that_form_a_loop(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["deep/a"] = VALUES
        file["deep/loop"] = file["/"]
    with open_hdf5(path) as file:
        assert datasets_below(file, "absent") == ()
        with pytest.raises(ValueError, match="deep/loop/: expected groups that form a"):
            datasets_below(file)


def test_sizes_that_are_only_declared(refused):
    huge = (1 << 40, 2)
    for options in ({}, {"chunks": (1024, 2), "compression": "gzip"}):
        message = refused(lambda f, o=options: f.create_dataset("a", huge, "f4", **o))
        assert message == (
            "expected 8796093022208 bytes of values as declared, found 0 bytes stored"
        )
    message = refused(
        lambda f: f.create_dataset("a", (1 << 27, 1), "f4", chunks=(1 << 27, 1))
    )
    assert message.startswith("expected ")


def chunk(content: bytes, **options):
    """Writes a dataset whose first chunk is stored as these bytes."""

    def write(file: h5py.File) -> None:
        made = file.create_dataset(
            "a", (6, 2), "f4", chunks=(3, 2), compression="gzip", **options
        )
        made[...] = VALUES
        made.id.write_direct_chunk((0, 0), content)

    return write


def test_a_chunk_that_unpacks_to_more_than_a_chunk(refused):
    """HDF5 makes room for all of it."""

    def write(file: h5py.File) -> None:
        # Chunks so large that HDF5 1.14 can write down how long the packed one is.
        shape = (3, 1 << 15)
        made = file.create_dataset("a", shape, "f4", chunks=shape, compression="gzip")
        made[...] = 0
        made.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 27)))

    assert refused(write) == (
        "expected chunks of 393216 bytes, found more in the one at [0, 0]"
    )


def test_a_chunk_shorter_than_its_checksum(refused):
    """HDF5 2.0 reads before the chunk's start, and ends the process."""
    message = refused(chunk(b"abc", fletcher32=True))
    assert message == "expected chunks of 24 bytes packed, found 3 in the one at [0, 0]"


def test_incompressible_and_unwritten_chunks_are_read(tmp_path):
    path = tmp_path / "a.hdf5"
    noise = np.random.default_rng(0).bytes(1 << 18)
    values = np.frombuffer(noise, np.float32).reshape(-1, 2)
    with h5py.File(path, "w") as file:
        options = {"chunks": (4096, 2), "compression": "gzip", "shuffle": True}
        file.create_dataset("noise", data=values, **options)
        partly = file.create_dataset("partly", values.shape, "f4", **options)
        partly[:4096] = 1
        file.create_dataset("text", data=["a", "b"])
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(
            read_rows(file, "noise", slice(3, 9000)), values[3:9000]
        )
        rows = read_rows(file, "partly", slice(0, len(values)))
        assert rows[:4096].all() and not rows[4096:].any()
        assert dataset(file, "text").shape == (2,)
        with pytest.raises(ValueError, match="b: expected a dataset, found only noise"):
            dataset(file, "b")
