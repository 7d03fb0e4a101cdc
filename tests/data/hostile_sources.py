"""Small sound sources of every format, which others break."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

STEPS, EPISODES, TIME = 24, 3, 8
Arrays = dict[str, np.ndarray]
Case = tuple[str, Callable[[], Path]]  # a description, and what writes a source


def d4rl() -> Arrays:
    generator = np.random.default_rng(0)
    steps = np.arange(STEPS)
    return {
        "observations": generator.normal(size=(STEPS, 3)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        "rewards": generator.normal(size=STEPS).astype(np.float32),
        "terminals": steps == 9,
        "timeouts": steps == 17,
        "next_observations": generator.normal(size=(STEPS, 3)).astype(np.float32),
        "infos/qpos": generator.normal(size=(STEPS, 2)),
        "metadata/weight": generator.normal(size=(4, 4)),
    }


def flat() -> Arrays:
    known = d4rl()
    chosen = ("observations", "actions", "rewards", "next_observations")
    return {name: known[name] for name in chosen} | {
        "offsets": np.array([0, 10, 18, STEPS]),
        "terminated": np.array([True, False, False]),
        "tasks": np.array([b"near", b"near", b"far"]),
        "extras/infos/qpos": known["infos/qpos"],
    }


def exorl() -> Arrays:
    generator = np.random.default_rng(1)
    return {
        "observation": generator.normal(size=(TIME, 3)).astype(np.float32),
        "action": generator.uniform(-1, 1, (TIME, 2)).astype(np.float32),
        "reward": generator.normal(size=(TIME, 1)).astype(np.float32),
        "discount": np.ones((TIME, 1), np.float32),
        "physics": generator.normal(size=(TIME, 4)),
    }


def minari() -> Arrays:
    generator = np.random.default_rng(2)
    arrays: Arrays = {}
    for episode in range(EPISODES):
        last = np.arange(TIME) == TIME - 1
        group = f"episode_{episode}"
        arrays |= {
            f"{group}/observations/a": generator.normal(size=(TIME + 1, 2)),
            f"{group}/observations/b": generator.normal(size=(TIME + 1, 1)),
            f"{group}/actions": generator.uniform(-1, 1, (TIME, 2)),
            f"{group}/rewards": generator.normal(size=TIME),
            f"{group}/terminations": last & (episode == 0),
            f"{group}/truncations": last & (episode != 0),
            f"{group}/infos/power": np.arange(TIME + 1.0),
        }
    return arrays


METADATA = {
    "total_episodes": EPISODES,
    "data_format": "hdf5",
    "dataset_id": "test/hostile-v0",
    "action_space": json.dumps(
        {"type": "Box", "shape": [2], "low": [-1.0, -1.0], "high": [1.0, 1.0]}
    ),
}


def write_hdf5(path: Path, arrays: Arrays, **options) -> None:
    libver = options.pop("libver", "earliest")
    with h5py.File(path, "w", libver=libver) as file:
        for name, values in arrays.items():
            kept = options if np.ndim(values) else {}
            if np.asarray(values).dtype.kind == "U":
                values = np.char.encode(values)
            file.create_dataset(name, data=values, **kept)


def write(format: str, folder: Path, arrays: Arrays, **options) -> Path:
    """Writes arrays as a source of a format that is made of arrays."""
    if format in ("d4rl", "hdf5"):
        write_hdf5(folder / "hopper.hdf5", arrays, **options)
        return folder / "hopper.hdf5"
    if format == "npz":
        np.savez_compressed(folder / "hopper.npz", **arrays)
        return folder / "hopper.npz"
    if format == "exorl":
        buffer = folder / "walker" / "rnd" / "buffer"
        buffer.mkdir(parents=True, exist_ok=True)
        for index in range(2):
            np.savez_compressed(
                buffer / f"episode_{index:06d}_{TIME - 1}.npz", **arrays
            )
        return buffer
    data = folder / "mine" / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_hdf5(data / "main_data.hdf5", arrays, **options)
    (data / "metadata.json").write_text(json.dumps(METADATA))
    return folder / "mine"


SOUND = {"d4rl": d4rl, "hdf5": flat, "npz": flat, "exorl": exorl, "minari": minari}


def write_rlds(folder: Path, *, tfrecord: bool) -> Path:
    """An RLDS dataset without a manifest, whose hashes would find any change."""
    from ring_rl.data.formats.d4rl import open_d4rl
    from ring_rl.data.rlds import write_rlds
    from ring_rl.data.rlds.record_files import read_array_record

    write("d4rl", folder, d4rl())
    spaces, episodes = open_d4rl(folder / "hopper.hdf5")
    target = folder / "dataset"
    write_rlds(episodes, spaces, target, name="hopper", source="a test")
    (target / "ring_rl_manifest.json").unlink()
    if tfrecord:
        (old,) = target.glob("*.array_record*")
        new = old.with_name(old.name.replace("array_record", "tfrecord"))
        new.write_bytes(b"".join(map(frame, read_array_record(old))))
        old.unlink()
        info = target / "dataset_info.json"
        text = info.read_text()
        assert "array_record" in text
        info.write_text(text.replace("array_record", "tfrecord"))
    return target


def frame(record: bytes) -> bytes:
    """A record in TFRecord's framing."""
    from google_crc32c import value

    def masked(data: bytes) -> bytes:
        crc = value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)
