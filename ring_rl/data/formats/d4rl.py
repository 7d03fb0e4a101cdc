"""D4RL's HDF5 files as episodes.

The schema is flat: `observations`, `actions`, `rewards`, `terminals`, often `timeouts`
and `next_observations`, and `infos/*`, one row a step, the episodes one after another.
Row i + 1 of `observations` is what followed row i only inside an episode: across its
end it is the first observation of the next one.

Source: Fu et al. 2020, D4RL, arXiv 2004.07219.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ring_rl.data.formats.d4rl_layout import (
    Boundaries,
    Layout,
    read_boundaries,
    read_layout,
)
from ring_rl.data.formats.hdf5 import open_hdf5, read_finite, read_rows
from ring_rl.types import Continuous, Episode, Spaces

_BLOCK_STEPS = 1 << 16  # rows read together: HDF5 unpacks a whole chunk for one row


def open_d4rl(
    path: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
    max_episode_steps: int | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces of a file, and its episodes, read a block at a time.

    An episode ends at a terminal (`terminated`) or a timeout (`truncated`), and at the
    end of the file (`truncated`). Discounts are 0 at a terminal step, else 1. The final
    observation comes from `next_observations` and is unknown in files without. Actions
    stay as they are, also beyond the bounds. Other datasets with a row of numbers a
    step become extras of that name: `infos/*`, but for text; and `next_observations`,
    where they are not the next row of `observations` all through an episode.

    Args:
      path: an HDF5 file.
      action_bounds: of every action column, which files do not say; -1 to 1 unless
        given.
      task: name of the task; the file's name without its ending unless given.
      max_episode_steps: cut (`truncated`) what is longer. Files without timeouts need
        it: theirs are otherwise cut at terminals only.

    Raises:
      ValueError: if the file is not in D4RL's schema or an argument is out of range,
        before the first episode; if it cannot be read further or holds values that are
        not finite, when it comes there.
    """
    path = Path(path)
    low, high = action_bounds or (-1.0, 1.0)
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"action bounds: expected two ascending numbers, found {low} and {high}"
        )
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(
            f"max_episode_steps: expected at least 1, found {max_episode_steps}"
        )
    with open_hdf5(path) as file:
        layout = read_layout(file)
        boundaries = read_boundaries(file, layout, max_episode_steps)
        if layout.has_next_observations and not _follows(file, boundaries):
            layout = layout._replace(extras=("next_observations", *layout.extras))
    spaces = Spaces(
        layout.observation,
        Continuous((float(low),) * layout.action, (float(high),) * layout.action),
    )
    return spaces, _episodes(path, layout, boundaries, task or path.stem)


def _episodes(
    path: Path, layout: Layout, boundaries: Boundaries, task: str
) -> Iterator[Episode]:
    """Reads whole episodes, as many as fit a block, and cuts the block up."""
    with open_hdf5(path) as file:
        for first, after, rows in _blocks(boundaries):
            observations = read_finite(file, "observations", rows)
            actions = read_finite(file, "actions", rows)
            rewards = read_finite(file, "rewards", rows).reshape(-1)
            extras = {name: read_rows(file, name, rows) for name in layout.extras}
            following = (
                read_finite(file, "next_observations", rows)
                if layout.has_next_observations
                else np.zeros_like(observations)
            )
            start = 0
            for episode in range(first, after):
                stop = int(boundaries.ends[episode]) - rows.start
                steps = slice(start, stop)
                discounts = np.ones(stop - start, np.float32)
                discounts[-1] = not boundaries.terminated[episode]
                yield Episode(
                    observations=observations[steps],
                    actions=actions[steps],
                    rewards=rewards[steps],
                    discounts=discounts,
                    final_observation=following[stop - 1].copy(),
                    has_final_observation=layout.has_next_observations,
                    terminated=bool(boundaries.terminated[episode]),
                    truncated=bool(boundaries.truncated[episode]),
                    task=task,
                    episode_id=episode,
                    extras={name: values[steps] for name, values in extras.items()},
                )
                start = stop


def _blocks(boundaries: Boundaries) -> Iterator[tuple[int, int, slice]]:
    """Whole episodes, as many as fit a block: the first, the one after, their rows."""
    ends = boundaries.ends
    first = start = 0
    while first < len(ends):
        after = int(np.searchsorted(ends, start + _BLOCK_STEPS, side="right"))
        after = max(after, first + 1)
        yield first, after, slice(start, int(ends[after - 1]))
        first, start = after, int(ends[after - 1])


def _follows(file: h5py.File, boundaries: Boundaries) -> bool:
    """Whether the next observation is the next row all through every episode."""
    for first, after, rows in _blocks(boundaries):
        inside = np.ones(rows.stop - rows.start, bool)
        inside[boundaries.ends[first:after] - rows.start - 1] = False
        observations = read_finite(file, "observations", rows)
        following = read_finite(file, "next_observations", rows)
        # As bits: 0 and -0 are equal as numbers, and would come back as the other one.
        same = following[:-1].view(np.int32) == observations[1:].view(np.int32)
        if not same.all(axis=1)[inside[:-1]].all():
            return False
    return True
