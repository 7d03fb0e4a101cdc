"""Zip archives and .npy headers that lie about themselves."""

import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from hostile_sources import SOUND, STEPS, Case, write


class Trap:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def zip_tricks(format: str, folder: Path) -> Iterator[Case]:
    """Archives that lie about themselves."""
    sound = SOUND[format]()
    members = {f"{name}.npy": npy(values) for name, values in sound.items()}
    first = next(iter(members))

    def archive(
        content: list[tuple[str, bytes]], patch=None, compression=zipfile.ZIP_DEFLATED
    ) -> Callable[[], Path]:
        def make() -> Path:
            source = write(format, folder, sound)
            path = sorted(source.glob("*.npz"))[0] if source.is_dir() else source
            with zipfile.ZipFile(path, "w", compression) as file:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about names that come twice
                    for name, data in content:
                        file.writestr(name, data)
            if patch is not None:
                data = bytearray(path.read_bytes())
                patch(data, data.index(b"PK\x01\x02"))
                path.write_bytes(data)
            return source

        return make

    def bomb() -> Path:
        source = write(format, folder, sound)
        path = sorted(source.glob("*.npz"))[0] if source.is_dir() else source
        name = "extras/bomb" if format == "npz" else "bomb"
        add_bomb(path, name, len(sound[first[:-4]]))
        return source

    everything = list(members.items())
    yield "twice", archive([*everything, everything[0]])
    for name in (
        "../up.npy",
        "/etc/up.npy",
        "a\\b.npy",
        "C:/a.npy",
        ".npy",
        "a/./b.npy",
    ):
        yield f"named {name}", archive([*everything, (name, npy(np.zeros(3)))])
    yield "bomb", archive([(first, npy(np.zeros(1 << 23))), *everything[1:]])
    yield "bomb aside", archive([*everything, ("extras/b.npy", npy(np.zeros(1 << 23)))])
    yield "bomb of the right shape", bomb
    yield "zip in it", archive([*everything, ("a.zip", b"PK\x05\x06" + bytes(18))])
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"method {method}", archive(everything, compression=method)
    header_cases = {
        "huge": {"shape": (1 << 60,)},
        "huge product": {"shape": (1 << 40, 1 << 40)},
        "negative": {"shape": (-1, 3)},
        "not integers": {"shape": (1.5, 3)},
        "booleans": {"shape": (True, True)},
        "no tuple": {"shape": 24},
        "objects": {"descr": "|O"},
        "structure": {"descr": [("a", "<f4")]},
        "sub-array": {"descr": ("<f4", (1 << 30,))},
        "wide text": {"descr": "<U1000000000"},
        "no type": {"descr": "hello"},
        "number as type": {"descr": 7},
        "order": {"fortran_order": "yes"},
    }
    for word, changes in header_cases.items():
        bad = npy(sound[first[:-4]], **changes)
        yield f"header {word}", archive([(first, bad), *everything[1:]])
    dictionary = "{'descr': '<f4', 'fortran_order': False, 'shape': (24, 3), }"
    texts = {
        "call": dictionary.replace("'<f4'", "open('executed', 'w')"),
        "nested": "(" * 3000,
        "long": dictionary + " " * 100_000,
        "no literal": "x",
        "keys": dictionary.replace("'descr'", "'desc'"),
        "list": "[1, 2]",
        "zero byte": "\0" * 10,
    }
    for word, text in texts.items():
        for version in ((1, 0), (2, 0), (3, 0), (9, 9)):
            form = "<H" if version == (1, 0) else "<I"
            size = min(len(text), 65535)
            bad = (
                b"\x93NUMPY" + bytes(version) + struct.pack(form, size) + text.encode()
            )
            yield f"text {word} {version}", archive([(first, bad), *everything[1:]])
    # Of an entry of the directory: versions, flags, method, times, checksum, sizes,
    # name's length, extra's, comment's, disk, attributes, offset.
    for place, width, word in (
        (8, 2, "flags"),
        (10, 2, "method"),
        (16, 4, "checksum"),
        (20, 4, "packed size"),
        (24, 4, "size"),
        (28, 2, "name"),
        (30, 2, "extra"),
        (42, 4, "offset"),
    ):
        for value in (0, 1, 9, 200, 1 << 14, (1 << 8 * width) - 1):

            def patch(data, entry, place=place, width=width, value=value) -> None:
                data[entry + place : entry + place + width] = value.to_bytes(
                    width, "little"
                )

            yield f"directory {word} {value}", archive(everything, patch)
    objects = dict(sound) | {first[:-4]: np.array([Trap()] * STEPS, object)}
    yield "pickled", lambda: write(format, folder, objects)
    yield "only a pickle", archive([(first, b"cos\nsystem\n(S'touch executed'\ntR.")])


def add_bomb(path: Path, name: str, rows: int) -> None:
    """Adds an array of so many rows, two gigabytes of zeros, to an archive."""
    width = (1 << 31) // (8 * rows)
    like = np.broadcast_to(0.0, (rows, width))
    header = npy(np.zeros(0), shape=like.shape)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a piece stands for itself, and may be repeated.
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    whole, rest = divmod(like.nbytes, 1 << 20)
    end = packer.compress(bytes(rest)) + packer.flush()
    packed = start + piece * whole + end
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"{name}.npy", packed)
    data = bytearray(path.read_bytes())
    size = struct.pack("<I", len(header) + like.nbytes)
    method = struct.pack("<H", zipfile.ZIP_DEFLATED)
    # The entry of the directory, the last one, and the header before the content.
    entry = data.rindex(b"PK\x01\x02")
    (local,) = struct.unpack_from("<I", data, entry + 42)
    data[entry + 10 : entry + 12], data[entry + 24 : entry + 28] = method, size
    data[local + 8 : local + 10], data[local + 22 : local + 26] = method, size
    path.write_bytes(data)


def npy(values: np.ndarray, **changes) -> bytes:
    """The bytes of an array's file, its header's entries replaced."""
    header = np.lib.format.header_data_from_array_1_0(values) | changes
    text = repr(header).ljust(117).encode() + b"\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
    return start + text + values.tobytes()
