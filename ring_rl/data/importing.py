"""From a file in someone else's format to an RLDS dataset, checked on the way."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ring_rl.data.formats.arrays import open_arrays
from ring_rl.data.formats.d4rl import open_d4rl
from ring_rl.data.formats.d4rl_template import TEMPLATE_NAME, write_template
from ring_rl.data.formats.exorl import open_exorl
from ring_rl.data.formats.minari import open_minari, resolve_minari
from ring_rl.data.inspect import inspect
from ring_rl.data.provenance import add_to_manifest, provenance
from ring_rl.data.rlds import DATASET_MARKER, open_rlds, write_rlds_files
from ring_rl.data.rlds.tfds_names import open_tfds, resolve_tfds
from ring_rl.data.staging import staged_directory
from ring_rl.data.store import open_store
from ring_rl.types import Episode, Spaces

_TFDS = "tfds:"


class Format(NamedTuple):
    """A format that datasets are imported from.

    Attributes:
      what: a few words for the help: what a source is.
      open: takes the source and the options that are given; spaces and episodes.
      options: names of the options that it takes, those of `import_dataset`.
    """

    what: str
    open: Callable[..., tuple[Spaces, Iterator[Episode]]]
    options: tuple[str, ...]


def _open_npz(source: Path, **options: Any) -> tuple[Spaces, Iterator[Episode]]:
    return open_arrays(source, "npz", **options)


def _open_hdf5(source: Path, **options: Any) -> tuple[Spaces, Iterator[Episode]]:
    return open_arrays(source, "hdf5", **options)


_COMMON = ("action_bounds", "task")
FORMATS = {
    "d4rl": Format("HDF5 file", open_d4rl, (*_COMMON, "max_episode_steps")),
    "exorl": Format("folder of episodes", open_exorl, _COMMON),
    "hdf5": Format("arrays, see --keys", _open_hdf5, (*_COMMON, "keys", "discrete")),
    "minari": Format("folder or id", open_minari, _COMMON),
    "npz": Format("arrays, see --keys", _open_npz, (*_COMMON, "keys", "discrete")),
    "rlds": Format("folder, or tfds:NAME", open_rlds, _COMMON),
}


def import_dataset(
    source: Path,
    format: str | None,
    directory: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
    max_episode_steps: int | None = None,
    keys: dict[str, str] | None = None,
    discrete: int | None = None,
    data_dir: Path | None = None,
    processes: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Imports a dataset, reads it back, and returns `inspect`'s summary of it.

    After any failure `directory` is as it was before, and nothing is left beside it.

    Args:
      source: a file or a folder, as the format has it; an id of a Minari dataset; or
        `tfds:NAME`, a dataset that TFDS has prepared.
      format: one of `FORMATS`; of `tfds:NAME` it is `rlds`.
      directory: a new directory, or an empty one.
      action_bounds: of every action column, where the source does not say (then -1 to
        1 unless given).
      task: name of the task of all episodes; unless given the source's own, or the
        source's file name.
      max_episode_steps: cut longer episodes; `d4rl` only.
      keys: which array is what; `npz` and `hdf5` only, see `formats.arrays`.
      discrete: number of discrete actions; `npz` and `hdf5` only.
      data_dir: where TFDS keeps what it has prepared; `tfds:NAME` only.
      processes: that write, see `write_rlds`.
      overwrite: replace the dataset that stands at `directory`.
      progress: called with the episodes and environment steps read so far.

    Raises:
      ValueError: one line saying what was expected and found, for a format that there
        is not, an option that it does not take, a bad source, or a `directory` that is
        taken.
    """
    source, format, opener = _resolve(source, format, data_dir)
    options = {
        "action_bounds": action_bounds,
        "task": task,
        "max_episode_steps": max_episode_steps,
        "keys": keys,
        "discrete": discrete,
    }
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in FORMATS[format].options:
            takers = [other for other in FORMATS if name in FORMATS[other].options]
            raise ValueError(
                f"{name}: expected none for {format}, found {given[name]}; it is for "
                f"{' and '.join(takers)}"
            )
    spaces, episodes = opener(**given)
    with staged_directory(
        Path(directory), overwrite=overwrite, marker=DATASET_MARKER
    ) as staging:
        template = staging / TEMPLATE_NAME
        if format == "d4rl":  # first: what it cannot hold is known at once
            write_template(source, template, max_episode_steps=max_episode_steps)
        elif format == "rlds" and (source / TEMPLATE_NAME).is_file():
            shutil.copyfile(source / TEMPLATE_NAME, template)
        write_rlds_files(
            _reported(episodes, progress),
            spaces,
            staging,
            name=Path(directory).name,
            source=provenance(source),
            reader=format,
            processes=processes,
        )
        if template.is_file():
            add_to_manifest(staging, [template])
        # Mapped arrays: the dataset may be larger than memory. They stay with it.
        return inspect(open_store(staging))


def _resolve(
    source: Path, format: str | None, data_dir: Path | None
) -> tuple[Path, str, Callable[..., tuple[Spaces, Iterator[Episode]]]]:
    """The path of a source, its format, and what opens it with options.

    A name of TFDS's says its format by itself.
    """
    name = str(source)
    if name.startswith(_TFDS):
        if format not in (None, "rlds"):
            raise ValueError(f"format: expected rlds for {name}, found {format!r}")
        opener = functools.partial(open_tfds, name, data_dir)
        return resolve_tfds(name, data_dir), "rlds", opener
    if data_dir is not None:
        raise ValueError(
            f"data_dir: expected none but for {_TFDS}NAME, found {data_dir}"
        )
    if format not in FORMATS:
        raise ValueError(
            f"format: expected one of {', '.join(FORMATS)}, found {format!r}"
        )
    path = resolve_minari(name) if format == "minari" else Path(source)
    return path, format, functools.partial(FORMATS[format].open, path)


def _reported(
    episodes: Iterator[Episode], progress: Callable[[int, int], None] | None
) -> Iterator[Episode]:
    """Passes episodes on and tells `progress` of them."""
    steps = 0
    for index, episode in enumerate(episodes):
        yield episode
        steps += len(episode.rewards)
        if progress is not None:
            progress(index + 1, steps)
