"""From a file in someone else's format to an RLDS dataset, checked on the way."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ring_rl.data.d4rl import d4rl_spaces, read_d4rl
from ring_rl.data.inspect import inspect
from ring_rl.data.manifest import sha256
from ring_rl.data.rlds import DATASET_MARKER, open_rlds, read_rlds, write_rlds_files
from ring_rl.data.staging import staged_directory
from ring_rl.types import Episode, Spaces

FORMATS = ("d4rl", "rlds")


def import_dataset(
    source: Path,
    format: str,
    directory: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
    max_episode_steps: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Imports a dataset, reads it back, and returns `inspect`'s summary of it.

    After any failure `directory` is as it was before, and nothing is left beside it.

    Args:
      source: a file (`d4rl`) or a directory (`rlds`).
      format: one of `FORMATS`.
      directory: a new directory, or an empty one.
      action_bounds: of every action column, where the source does not say (then -1 to
        1 unless given).
      task: name of the task of all episodes; unless given the source's own, or the
        source's file name.
      max_episode_steps: cut longer episodes; `d4rl` only.
      overwrite: replace the dataset that stands at `directory`.
      progress: called with the episodes and environment steps read so far.

    Raises:
      ValueError: one line saying what was expected and found, for a format that there
        is not, a bad source, or a `directory` that is taken.
    """
    spaces, episodes = _open_source(
        Path(source), format, action_bounds, task, max_episode_steps
    )
    with staged_directory(
        Path(directory), overwrite=overwrite, marker=DATASET_MARKER
    ) as staging:
        write_rlds_files(
            _reported(episodes, progress),
            spaces,
            staging,
            name=Path(directory).name,
            source=_provenance(Path(source)),
            reader=format,
        )
        return inspect(read_rlds(staging))


def _open_source(
    source: Path,
    format: str,
    action_bounds: tuple[float, float] | None,
    task: str | None,
    max_episode_steps: int | None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces and the episodes of a source of this format."""
    if format == "d4rl":
        spaces = d4rl_spaces(source, action_bounds=action_bounds or (-1.0, 1.0))
        episodes = read_d4rl(source, task=task, max_episode_steps=max_episode_steps)
        return spaces, episodes
    if format == "rlds":
        if max_episode_steps is not None:
            raise ValueError(
                "max_episode_steps: expected none for rlds, whose episodes are cut "
                f"already, found {max_episode_steps}"
            )
        return open_rlds(source, action_bounds=action_bounds, task=task)
    raise ValueError(f"format: expected one of {', '.join(FORMATS)}, found {format!r}")


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


def _provenance(source: Path) -> str:
    """The source's name, and its hash if it is one file."""
    return f"{source.name} sha256 {sha256(source)}" if source.is_file() else source.name
