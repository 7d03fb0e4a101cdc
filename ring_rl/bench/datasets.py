"""Datasets for benchmarks of data: given ones, synthetic ones, and other forms."""

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ring_rl.types import Continuous, Episode, Spaces

# As D4RL's Hopper has them.
HOPPER = Spaces(11, Continuous((-1.0,) * 3, (1.0,) * 3))
HOPPER_STEPS, HOPPER_EPISODES = 40_000, 95


def hopper_like() -> Iterator[Episode]:
    """Random numbers in the shapes, types and lengths of a D4RL file of Hopper."""
    random = np.random.default_rng(0)
    cuts = np.sort(random.choice(HOPPER_STEPS, HOPPER_EPISODES - 1, replace=False))
    for index, steps in enumerate(np.diff(cuts, prepend=0, append=HOPPER_STEPS)):
        steps = int(steps)
        positions = random.standard_normal((steps, 6))
        yield Episode(
            observations=random.standard_normal((steps, 11), np.float32),
            actions=random.uniform(-1, 1, (steps, 3)).astype(np.float32),
            rewards=random.random(steps, np.float32),
            discounts=np.ones(steps, np.float32),
            final_observation=random.standard_normal(11, np.float32),
            has_final_observation=True,
            terminated=bool(index % 2),
            truncated=not index % 2,
            task="synthetic",
            episode_id=index,
            extras={"infos/qpos": positions, "infos/qvel": positions[:, ::-1].copy()},
        )


def prepare(source: Path | None, folder: Path) -> Path:
    """The RLDS dataset of a source, made in the folder where it is not one.

    Args:
      source: an RLDS dataset; a D4RL file; or None, for `hopper_like` episodes.
      folder: for what is made.

    Raises:
      ValueError: the source is neither.
    """
    from ring_rl.data.importing import import_dataset
    from ring_rl.data.rlds import write_rlds

    made = folder / "dataset"
    if source is None:
        write_rlds(hopper_like(), HOPPER, made, name="synthetic", source="numbers")
        return made
    if source.is_dir():
        return source
    if not source.is_file():
        raise ValueError(f"{source}: expected a dataset's folder or file, found none")
    import_dataset(source, "d4rl", made)
    return made


def as_tfrecord(dataset: Path, folder: Path) -> Path:
    """A copy of an array_record dataset in TFRecord files, without a manifest.

    Raises:
      ValueError: the dataset is in another form.
    """
    from google_crc32c import value

    from ring_rl.data.rlds.record_files import read_array_record
    from ring_rl.data.rlds.tfds_files import DATASET_MARKER, FEATURES_NAME

    info = json.loads((dataset / DATASET_MARKER).read_text(encoding="utf-8"))
    form = info.get("fileFormat")
    if form != "array_record":
        raise ValueError(f"{dataset}: expected array_record files, found {form}")
    folder.mkdir()
    info["fileFormat"] = "tfrecord"
    (folder / DATASET_MARKER).write_text(json.dumps(info), encoding="utf-8")
    shutil.copy(dataset / FEATURES_NAME, folder)

    def masked(data: bytes) -> bytes:
        crc = value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    for path in dataset.glob("*.array_record-*"):
        with (folder / path.name.replace("array_record", "tfrecord")).open("wb") as out:
            for record in read_array_record(path):
                length = struct.pack("<Q", len(record))
                out.write(length + masked(length) + record + masked(record))
    return folder
