"""RLDS datasets opened for reading: ring_rl's own, and those of others.

What they have in common is TFDS's form: record files of `tf.train.Example`s, beside two
JSON files. A manifest only ring_rl's have. Neither TensorFlow nor TFDS is imported.
"""

import contextlib
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from ring_rl.data.checks import check_episode
from ring_rl.data.manifest import (
    MANIFEST_NAME,
    check_files,
    read_manifest,
    spaces_from_json,
)
from ring_rl.data.rlds.episodes import action_names, decode_episode, largest_action
from ring_rl.data.rlds.example import Values, parse_example
from ring_rl.data.rlds.layout import Layout, infer_spaces, read_layout
from ring_rl.data.rlds.record_files import READERS
from ring_rl.data.rlds.tfds_files import (
    DATASET_MARKER,
    FEATURES_NAME,
    Shard,
    read_shards,
)
from ring_rl.types import Discrete, Episode, Spaces

_D4RL_BUILDERS = "d4rl_"  # what the names of TFDS's builders of D4RL's sets begin with


def open_rlds(
    directory: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces of a dataset, and its episodes one at a time, all splits in turn.

    Record files may be array_record or tfrecord. With a manifest they are checked
    against its hashes first. Without one the spaces are worked out from the features,
    and episodes of D4RL's sets lose their final observations: TFDS's builders of these,
    `d4rl_*`, write the last one of the whole file, or zeros, for every episode.

    An observation, or an action, of several features (a dictionary, nested or not) is
    all of its numeric features of fixed shape, flattened, in the alphabetical order of
    their names, group by group; text and images are left out. Numbers become float32,
    rounded where they were doubles. An action of one integer is discrete.

    Args:
      directory: where `dataset_info.json` and the record files are.
      action_bounds: bounds of continuous actions, where there is no manifest (then
        -1 to 1 unless given).
      task: replaces the episodes' own; the directory's name where they have none.

    Raises:
      ValueError: naming the file that is missing, altered or not RLDS; also while
        iterating, at a record that cannot be read.
    """
    directory = Path(directory)
    for name in (DATASET_MARKER, FEATURES_NAME):
        if not (directory / name).is_file():
            raise ValueError(
                f"{directory / name}: expected an RLDS dataset's file, found none"
            )
    manifest = read_manifest(directory)
    if manifest is not None:
        check_files(directory, manifest)
    builder, form, shards = read_shards(directory)
    layout = read_layout(directory)
    if manifest is None:
        largest = -1
        if layout.discrete:  # how many there are only the records say
            names = action_names(layout)
            for where, record in _records(form, shards, names):
                with _naming(where):
                    largest = max(largest, largest_action(record, layout))
        spaces = infer_spaces(
            layout, largest_action=largest, bounds=action_bounds or (-1.0, 1.0)
        )
    elif action_bounds is not None:
        raise ValueError(
            f"{directory}: expected no action bounds, since its manifest has them; "
            f"found {action_bounds}"
        )
    else:
        spaces = spaces_from_json(manifest["spaces"])
        for shard in shards:
            if shard.path.name not in manifest["files"]:
                raise ValueError(
                    f"{directory / MANIFEST_NAME}: expected the file "
                    f"{shard.path.name}, found {sorted(manifest['files'])}"
                )
        if isinstance(spaces.action, Discrete) != layout.discrete:
            raise ValueError(
                f"{directory / MANIFEST_NAME}: spaces: expected actions as in "
                f"{FEATURES_NAME}, found {spaces.action}"
            )

    episodes = _episodes(form, shards, layout, spaces, task, directory.name)
    if manifest is None and builder.startswith(_D4RL_BUILDERS):
        return spaces, map(_without_final_observation, episodes)
    return spaces, episodes


def _episodes(
    form: str,
    shards: list[Shard],
    layout: Layout,
    spaces: Spaces,
    task: str | None,
    name: str,
) -> Iterator[Episode]:
    """The episodes of the record files, checked."""
    for index, (where, record) in enumerate(_records(form, shards, layout.names)):
        with _naming(where):
            episode = decode_episode(record, layout, index)
            if episode is not None:
                check_episode(episode, spaces, index)
        if episode is not None:
            yield episode._replace(task=task or episode.task or name)


def _without_final_observation(episode: Episode) -> Episode:
    return episode._replace(
        final_observation=np.zeros_like(episode.final_observation),
        has_final_observation=False,
    )


def _records(
    form: str, shards: list[Shard], names: Container[str]
) -> Iterator[tuple[str, dict[str, Values]]]:
    """The records of all files, and where each is."""
    for shard in shards:
        count = 0
        for data in READERS[form](shard.path):
            where = f"{shard.path}: record {count}"
            with _naming(where):
                record = parse_example(data, names)
            yield where, record
            count += 1
        if count != shard.records:
            raise ValueError(
                f"{shard.path}: expected {shard.records} records as in "
                f"{DATASET_MARKER}, found {count}"
            )


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Puts the place before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
