"""D4RL's HDF5 files as episodes.

The schema is flat: `observations`, `actions`, `rewards`, `terminals`, often `timeouts`
and `next_observations`, and `infos/*`, one row a step, the episodes one after another.
Row i + 1 of `observations` is what followed row i only inside an episode: across its
end it is the first observation of the next one.

Source: Fu et al. 2020, D4RL, arXiv 2004.07219.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Bool, Int64

from ring_rl.data.hdf5 import (
    dataset,
    datasets_below,
    mismatch,
    open_hdf5,
    read_finite,
    read_rows,
)
from ring_rl.types import Continuous, Episode, Spaces

_BLOCK_STEPS = 1 << 16  # rows read together: HDF5 unpacks a whole chunk for one row


class _Layout(NamedTuple):
    """What the names, shapes and types of a file say."""

    steps: int
    observation: int
    action: int
    has_timeouts: bool
    has_next_observations: bool
    infos: tuple[str, ...]


class _Boundaries(NamedTuple):
    """Where the episodes of a file end: `[episodes]` each."""

    ends: Int64[np.ndarray, " episodes"]
    terminated: Bool[np.ndarray, " episodes"]
    truncated: Bool[np.ndarray, " episodes"]


def d4rl_spaces(
    path: Path, *, action_bounds: tuple[float, float] = (-1.0, 1.0)
) -> Spaces:
    """The spaces of a file; it does not say what the bounds of the actions are.

    Raises:
      ValueError: if the file is not in D4RL's schema, or the bounds are not ascending.
    """
    low, high = action_bounds
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"action bounds: expected two ascending numbers, found {low} and {high}"
        )
    with open_hdf5(Path(path)) as file:
        layout = _layout(file)
    return Spaces(
        layout.observation,
        Continuous((float(low),) * layout.action, (float(high),) * layout.action),
    )


def read_d4rl(
    path: Path, *, task: str | None = None, max_episode_steps: int | None = None
) -> Iterator[Episode]:
    """The episodes of a file, read a block at a time.

    An episode ends at a terminal (`terminated`) or a timeout (`truncated`), and at the
    end of the file (`truncated`). Discounts are 0 at a terminal step, else 1. The final
    observation comes from `next_observations` and is unknown in files without. Actions
    stay as they are, also beyond the bounds. `infos/*` become extras of that name.

    Args:
      path: an HDF5 file.
      task: name of the task; the file's name without its ending unless given.
      max_episode_steps: cut (`truncated`) what is longer. Files without timeouts need
        it: theirs are otherwise cut at terminals only.

    Raises:
      ValueError: if the file is not in D4RL's schema, before the first episode; if it
        cannot be read further or holds values that are not finite, when it comes there.
    """
    path = Path(path)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(
            f"max_episode_steps: expected at least 1, found {max_episode_steps}"
        )
    with open_hdf5(path) as file:
        layout = _layout(file)
        boundaries = _boundaries(file, layout, max_episode_steps)
    return _episodes(path, layout, boundaries, task or path.stem)


def _episodes(
    path: Path, layout: _Layout, boundaries: _Boundaries, task: str
) -> Iterator[Episode]:
    """Reads whole episodes, as many as fit a block, and cuts the block up."""
    ends = boundaries.ends
    index = start = 0
    with open_hdf5(path) as file:
        while index < len(ends):
            after = int(np.searchsorted(ends, start + _BLOCK_STEPS, side="right"))
            after = max(after, index + 1)
            rows = slice(start, int(ends[after - 1]))
            observations = read_finite(file, "observations", rows)
            actions = read_finite(file, "actions", rows)
            rewards = read_finite(file, "rewards", rows).reshape(-1)
            infos = {name: read_rows(file, name, rows) for name in layout.infos}
            following = (
                read_finite(file, "next_observations", rows)
                if layout.has_next_observations
                else np.zeros_like(observations)
            )
            for episode in range(index, after):
                stop = int(ends[episode])
                steps = slice(start - rows.start, stop - rows.start)
                discounts = np.ones(stop - start, np.float32)
                discounts[-1] = not boundaries.terminated[episode]
                yield Episode(
                    observations=observations[steps],
                    actions=actions[steps],
                    rewards=rewards[steps],
                    discounts=discounts,
                    final_observation=following[steps.stop - 1].copy(),
                    has_final_observation=layout.has_next_observations,
                    terminated=bool(boundaries.terminated[episode]),
                    truncated=bool(boundaries.truncated[episode]),
                    task=task,
                    episode_id=episode,
                    extras={name: values[steps] for name, values in infos.items()},
                )
                start = stop
            index = after


def _boundaries(
    file: h5py.File, layout: _Layout, max_episode_steps: int | None
) -> _Boundaries:
    """Finds the episodes' ends from the flags, the step limit and the file's end."""
    terminals = _flags(file, "terminals", layout.steps)
    timeouts = (
        _flags(file, "timeouts", layout.steps)
        if layout.has_timeouts
        else np.zeros_like(terminals)
    )
    ends = np.flatnonzero(terminals | timeouts) + 1
    if not len(ends) or ends[-1] != layout.steps:
        ends = np.append(ends, layout.steps)
    if max_episode_steps is not None:
        starts = np.concatenate([[0], ends[:-1]])
        ends = np.concatenate(
            [
                np.append(np.arange(start, end, max_episode_steps)[1:], end)
                for start, end in zip(starts, ends, strict=True)
            ]
        )
    terminated = terminals[ends - 1]
    # Whatever the flags say, an episode that no terminal ended was cut.
    return _Boundaries(ends, terminated, timeouts[ends - 1] | ~terminated)


def _flags(file: h5py.File, name: str, steps: int) -> Bool[np.ndarray, " steps"]:
    """A flag of every step of the file; a byte a step, so all are read at once."""
    values = read_rows(file, name, slice(0, steps)).reshape(steps)
    flags = values.astype(bool)
    if not np.array_equal(values, flags):
        row = int(np.flatnonzero(values != flags)[0])
        raise mismatch(file, name, "0 and 1", f"{values[row]} in row {row}")
    return flags


def _layout(file: h5py.File) -> _Layout:
    """Checks names, types and shapes of a file without reading its values."""
    observations, actions = dataset(file, "observations"), dataset(file, "actions")
    rewards, terminals = dataset(file, "rewards"), dataset(file, "terminals")
    steps = rewards.shape[0] if rewards.shape else 0
    if not steps:
        raise mismatch(file, "rewards", "[steps] numbers", rewards)
    infos = datasets_below(file, "infos")
    wide = {"observations": observations, "actions": actions}
    narrow = {"rewards": rewards, "terminals": terminals}
    if "timeouts" in file:
        narrow["timeouts"] = dataset(file, "timeouts")
    if "next_observations" in file:
        wide["next_observations"] = dataset(file, "next_observations")
    others = {name: dataset(file, name) for name in infos}
    for name, item in (wide | narrow | others).items():
        kinds, numbers = ("f", "floats") if name in wide else ("biuf", "numbers")
        if item.dtype.kind not in kinds or item.dtype.itemsize > 8:
            raise mismatch(file, name, numbers, item)
        if (item.shape or ())[:1] != (steps,):
            raise mismatch(file, name, f"{steps} rows as in rewards", item)
        if name in wide and (item.ndim != 2 or not item.shape[1]):
            raise mismatch(file, name, f"[{steps}, width] numbers", item)
        if name in narrow and item.shape not in ((steps,), (steps, 1)):
            raise mismatch(file, name, f"[{steps}] numbers", item)
    following = wide.get("next_observations", observations)
    if following.shape != observations.shape:
        expected = f"{list(observations.shape)} as in observations"
        raise mismatch(file, "next_observations", expected, following)
    return _Layout(
        steps=steps,
        observation=observations.shape[1],
        action=actions.shape[1],
        has_timeouts="timeouts" in narrow,
        has_next_observations="next_observations" in wide,
        infos=infos,
    )
