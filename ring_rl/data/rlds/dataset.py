"""RLDS datasets in the form of TFDS, written (as array_record) without TensorFlow.

A dataset is a directory: record files, TFDS's own `features.json` and
`dataset_info.json`, so that `tfds.builder_from_directory` opens it, and the manifest
`ring_rl_manifest.json`. Someone else's dataset, without a manifest, is read as well.
"""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.manifest import write_manifest
from ring_rl.data.rlds.records import rlds_features
from ring_rl.data.rlds.shards import write_shards
from ring_rl.data.rlds.source import DATASET_MARKER, open_rlds
from ring_rl.data.rlds.tfds_files import FEATURES_NAME
from ring_rl.data.staging import staged_directory
from ring_rl.types import Episode, Spaces


def write_rlds(
    episodes: Iterable[Episode],
    spaces: Spaces,
    directory: Path,
    *,
    name: str,
    source: str,
    reader: str = "episodes",
    overwrite: bool = False,
    processes: int = 1,
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
      processes: that encode episodes, beside this one if there are several (then as a
        script's own, under `if __name__ == "__main__":`). Files do not depend on it.

    Raises:
      ValueError: if something stands at `directory`, if there is no episode, or if one
        breaks its contract.
    """
    with staged_directory(
        directory, overwrite=overwrite, marker=DATASET_MARKER
    ) as staging:
        write_rlds_files(
            episodes,
            spaces,
            staging,
            name=name,
            source=source,
            reader=reader,
            processes=processes,
        )


def write_rlds_files(
    episodes: Iterable[Episode],
    spaces: Spaces,
    directory: Path,
    *,
    name: str,
    source: str,
    reader: str,
    processes: int = 1,
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
    parts = write_shards(
        itertools.chain([first], episodes), spaces, directory, processes=processes
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(directory),
        dataset_name=_tfds_name(name),
        split="train",
        filetype_suffix="array_record",
    )
    # How many there are is known now only, and part of their names.
    shards = [directory / path.name for path in template.sharded_filepaths(len(parts))]
    for part, shard in zip(parts, shards, strict=True):
        part.path.rename(shard)
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name="train",
                shard_lengths=[len(part.lengths) for part in parts],
                num_bytes=sum(part.size for part in parts),
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
        returns=np.concatenate([part.returns for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        records=[*shards, directory / FEATURES_NAME, directory / DATASET_MARKER],
    )


def _tfds_name(name: str) -> str:
    """The name as TFDS allows it: letters, digits and underscores, a letter first."""
    words = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_")
    return words if words[:1].isalpha() else f"rlds_{words}".rstrip("_")


def read_rlds(
    directory: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> EpisodeStore:
    """Reads a whole dataset into memory; arguments and errors of `open_rlds`."""
    spaces, episodes = open_rlds(directory, action_bounds=action_bounds, task=task)
    return EpisodeStore.from_episodes(episodes, spaces)
