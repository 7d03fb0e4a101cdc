"""HDF5 files that lead elsewhere, in circles, or declare what is not there."""

import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from hostile_sources import SOUND, Case, write, write_hdf5


def hdf5_tricks(format: str, folder: Path) -> Iterator[Case]:
    """HDF5 files that lead elsewhere, in circles, or declare what is not there."""
    sound = SOUND[format]()
    secret = folder / "secret.hdf5"

    def altered(alter: Callable[[h5py.File], object]) -> Callable[[], Path]:
        def make() -> Path:
            write_hdf5(secret, sound)
            (folder / "secret.bin").write_bytes(bytes(4096))
            source = write(format, folder, sound)
            path = source / "data" / "main_data.hdf5" if source.is_dir() else source
            with h5py.File(path, "a") as file:
                alter(file)
            return source

        return make

    for name in sound:
        if format == "minari" and not name.startswith("episode_1"):
            continue
        shape, dtype = sound[name].shape, sound[name].dtype
        for word, trick in _dataset_tricks(name, shape, dtype, secret).items():

            def alter(file: h5py.File, name=name, trick=trick) -> None:
                del file[name]
                trick(file)

            yield f"{name}: {word}", altered(alter)
    place = "episode_1" if format == "minari" else "infos"
    below = f"{place}/infos" if format == "minari" else place

    def require(file: h5py.File) -> h5py.Group:
        return file.require_group(below)

    tricks: dict[str, Callable[[h5py.File], object]] = {
        "hard loop": lambda f: require(f).__setitem__("loop", f["/"]),
        "hard loop of one": lambda f: require(f).__setitem__("me", require(f)),
        "soft loop": lambda f: require(f).__setitem__("loop", h5py.SoftLink("/")),
        "other file's root": lambda f: require(f).__setitem__(
            "out", h5py.ExternalLink(str(secret), "/")
        ),
        "absent file": lambda f: require(f).__setitem__(
            "out", h5py.ExternalLink("/nowhere/x.hdf5", "/")
        ),
        "deep": lambda f: f.create_group(below + "/g" * 3000),
        "type": lambda f: require(f).__setitem__("type", np.dtype("f8")),
        "many attributes": lambda f: [
            f.attrs.__setitem__(f"{i}", i) for i in range(90)
        ],
        "reference attribute": lambda f: f.attrs.__setitem__("r", f.ref),
    }
    for word, trick in tricks.items():
        yield word, altered(trick)


@functools.cache
def _bomb() -> bytes:
    """A gigabyte of zeros, deflated."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + (
        packer.flush()
    )


def _dataset_tricks(
    name: str, shape: tuple[int, ...], dtype: np.dtype, secret: Path
) -> dict[str, Callable[[h5py.File], object]]:
    """Ways to put something treacherous in the place of a dataset."""
    huge = (1 << 40, *shape[1:])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(str(secret), name, shape)
        file.create_virtual_dataset(name, layout)

    def unknown_filter(file: h5py.File) -> None:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk(tuple(max(1, size) for size in shape) or (1,))
        creation.set_filter(32_123, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        space = h5py.h5s.create_simple(shape or (1,))
        kind = h5py.h5t.py_create(dtype, logical=True)
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        h5py.h5d.create(file.id, name.encode(), kind, space, creation, links)

    def references(file: h5py.File) -> None:
        data = np.array([file.ref] * shape[0], h5py.ref_dtype)
        file.create_dataset(name, data=data, dtype=h5py.ref_dtype)

    def regions(file: h5py.File) -> None:
        other = file.create_dataset("other", (4, 4), "f4")
        data = np.array([other.regionref[:2]] * shape[0], h5py.regionref_dtype)
        file.create_dataset(name, data=data, dtype=h5py.regionref_dtype)

    def bomb(file: h5py.File) -> None:
        # What is stored for a small chunk unpacks to a gigabyte. HDF5 1.14 can write
        # down how long that is where a chunk has 256 bytes or more.
        made = file.create_dataset(
            name, shape, dtype, chunks=(256, *shape[1:]), compression="gzip",
            maxshape=(None, *shape[1:]),
        )  # fmt: skip
        made.id.write_direct_chunk((0,) * len(shape), _bomb())

    def ragged(file: h5py.File) -> None:
        made = file.create_dataset(name, shape[:1], h5py.vlen_dtype(np.float32))
        made[0] = np.zeros(5)

    return {
        "external link": lambda f: f.__setitem__(
            name, h5py.ExternalLink(str(secret), name)
        ),
        "soft link": lambda f: f.__setitem__(name, h5py.SoftLink("/actions")),
        "soft link to itself": lambda f: f.__setitem__(name, h5py.SoftLink(f"/{name}")),
        "a group": lambda f: f.create_group(name),
        "external storage": lambda f: f.create_dataset(
            name, shape, dtype, external=[(str(secret.with_suffix(".bin")), 0, 4096)]
        ),
        "virtual": virtual,
        "huge": lambda f: f.create_dataset(name, huge, dtype, chunks=True),
        "huge in one": lambda f: f.create_dataset(name, huge, dtype),
        "huge chunk": lambda f: f.create_dataset(
            name, (1 << 26, *shape[1:]), dtype, chunks=(1 << 26, *shape[1:])
        ),
        "never written": lambda f: f.create_dataset(name, shape, dtype),
        "empty": lambda f: f.create_dataset(name, data=h5py.Empty("f4")),
        "unknown filter": unknown_filter,
        "references": references,
        "regions": regions,
        "ragged": ragged,
        "bomb": bomb,
        "text": lambda f: f.create_dataset(name, data=["text"] * shape[0]),
        "structure": lambda f: f.create_dataset(name, shape, [("a", "f4")]),
        "enumeration": lambda f: f.create_dataset(
            name, shape, h5py.enum_dtype({"a": 0, "b": 1}, basetype="i")
        ),
        "opaque": lambda f: f.create_dataset(name, shape, h5py.opaque_dtype("M8[s]")),
        "a type": lambda f: f.__setitem__(name, np.dtype("f4")),
    }
