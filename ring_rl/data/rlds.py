"""RLDS datasets in the form of TFDS (array_record), without TensorFlow.

A dataset is a directory: record files, TFDS's own `features.json` and
`dataset_info.json`, so that `tfds.builder_from_directory` opens it, and the manifest
`ring_rl_manifest.json`. Someone else's dataset, without a manifest, is read as well.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ring_rl.data.checks import check_episode
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.manifest import write_manifest
from ring_rl.data.rlds_records import encode_episode, rlds_features
from ring_rl.data.rlds_source import DATASET_MARKER, open_rlds
from ring_rl.data.staging import staged_directory
from ring_rl.types import Episode, Spaces

_SHARD_BYTES = 256 << 20  # a record file is closed once it is this large


def write_rlds(
    episodes: Iterable[Episode],
    spaces: Spaces,
    directory: Path,
    *,
    name: str,
    source: str,
    reader: str = "episodes",
    overwrite: bool = False,
) -> None:
    """Writes episodes as they come; `directory` appears complete or not at all.

    Args:
      episodes: looked at once, one at a time; all with the same extra arrays.
      spaces: what every episode is checked against.
      directory: a new directory, or an empty one.
      name: of the dataset; record files carry it, in TFDS's spelling.
      source: where the episodes are from, for the manifest.
      reader: what read them there, for the manifest.
      overwrite: replace the dataset that stands at `directory`.

    Raises:
      ValueError: if something stands at `directory`, if there is no episode, or if one
        breaks its contract.
    """
    with staged_directory(
        directory, overwrite=overwrite, marker=DATASET_MARKER
    ) as staging:
        write_rlds_files(
            episodes, spaces, staging, name=name, source=source, reader=reader
        )


def write_rlds_files(
    episodes: Iterable[Episode],
    spaces: Spaces,
    directory: Path,
    *,
    name: str,
    source: str,
    reader: str,
) -> None:
    """Writes the files of a dataset into an empty directory, without its guarantees.

    Raises:
      ValueError: if there is no episode, or if one breaks its contract.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    episodes = iter(episodes)
    first = next(episodes, None)
    if first is None:
        raise ValueError(f"{source}: expected at least one episode, found none")
    features = rlds_features(spaces, first)
    lengths: list[int] = []
    returns: list[float] = []

    def records() -> Iterator[bytes]:
        for index, episode in enumerate(itertools.chain([first], episodes)):
            check_episode(episode, spaces, index, like=first)
            lengths.append(len(episode.rewards))
            returns.append(float(episode.rewards.sum(dtype=np.float64)))
            yield encode_episode(episode)

    tfds_name = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_") or "rlds"
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(directory),
        dataset_name=tfds_name,
        split="train",
        filetype_suffix="array_record",
    )
    counts, size, parts = _write_shards(records(), directory)
    shards = [directory / path.name for path in template.sharded_filepaths(len(parts))]
    for part, shard in zip(parts, shards, strict=True):
        part.rename(shard)
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name="train",
                shard_lengths=counts,
                num_bytes=size,
                filename_template=template,
            )
        ],
        version="1.0.0",
        check_data=False,  # TFDS would read an example through TensorFlow
        description=f"{name}, from {source}, written by ring_rl.",
    )
    write_manifest(
        directory,
        name=name,
        source=source,
        reader=reader,
        spaces=spaces,
        returns=np.asarray(returns),
        lengths=np.asarray(lengths),
        records=shards,
    )


def _write_shards(
    records: Iterator[bytes], directory: Path
) -> tuple[list[int], int, list[Path]]:
    """Writes records to numbered files: records in each, bytes of all, the files.

    How many there will be is known at the end only, so they get their names later.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    counts: list[int] = []
    parts: list[Path] = []
    total = 0
    record = next(records, None)
    while record is not None:
        part = directory / f"part-{len(parts)}"
        # One record a group, else random access reads the whole group for one.
        writer = ArrayRecordWriter(str(part), "group_size:1")
        count = size = 0
        try:
            while record is not None and size < _SHARD_BYTES:
                writer.write(record)
                count, size = count + 1, size + len(record)
                record = next(records, None)
        finally:
            writer.close()
        counts.append(count)
        parts.append(part)
        total += size
    return counts, total, parts


def read_rlds(
    directory: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> EpisodeStore:
    """Reads a whole dataset into memory; arguments and errors of `open_rlds`."""
    spaces, episodes = open_rlds(directory, action_bounds=action_bounds, task=task)
    return EpisodeStore.from_episodes(episodes, spaces)
