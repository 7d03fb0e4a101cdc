"""An RLDS dataset as ExoRL's folder of episode files; see `ring_rl.data.formats.exorl`.

`open_exorl` reads the same episodes back, but for their tasks' names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.data.resets import read_resets
from ring_rl.data.rlds import open_rlds
from ring_rl.data.store import open_store
from ring_rl.types import Discrete, Episode, Spaces


def check_exorl(spaces: Spaces) -> None:
    """Raises ValueError for spaces that ExoRL's files cannot hold."""
    if isinstance(spaces.action, Discrete):
        raise ValueError(
            "exorl: expected continuous actions, found "
            f"{spaces.action.size} discrete ones"
        )


def write_exorl(
    directory: Path,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes the episodes of a dataset to `episode_{index:06d}_{length}.npz`.

    The index is the episode's place in the dataset. Row 0 has the first observation,
    zero action and reward, discount 1, and the extras as the reset left them.

    Args:
      directory: of an RLDS dataset.
      folder: where the files go; made if there is none.
      progress: called with the episodes and environment steps done so far.

    Returns:
      What the files do not hold, a readable line each.

    Raises:
      ValueError: the dataset cannot be read, or an episode cannot be held: its actions
        are discrete, it has no final observation, or whether it terminated is not what
        its last discount says.
    """
    spaces, episodes = open_rlds(directory)
    check_exorl(spaces)
    count = len(open_store(directory).returns)
    resets = read_resets(directory, count)
    folder.mkdir(exist_ok=True)
    lost: dict[str, None] = {}
    steps = 0
    for index, episode in enumerate(episodes):
        reset = {name: values[index] for name, values in resets.items()}
        _check(episode, index)
        if episode.task:
            lost["names of tasks"] = None
        if episode.episode_id != index:
            lost["ids of episodes: they are counted from 0"] = None
        for name in episode.extras:
            if name not in reset:
                lost[f"{name} at the resets: row 0 is zero"] = None
        length = len(episode.rewards)
        steps += length
        path = folder / f"episode_{index:06d}_{length}.npz"
        np.savez_compressed(path, **_arrays(episode, reset))
        if progress is not None:
            progress(index + 1, steps)
    return list(lost)


def _check(episode: Episode, index: int) -> None:
    if not episode.has_final_observation:
        raise ValueError(f"exorl: expected a final observation in episode {index}")
    ends = bool(episode.discounts[-1] == 0)
    if episode.terminated != ends or episode.truncated == ends:
        raise ValueError(
            f"exorl: expected episode {index} terminated where its last discount is 0 "
            f"and truncated elsewhere, found discount {episode.discounts[-1]}, "
            f"terminated {episode.terminated}, truncated {episode.truncated}"
        )


def _arrays(episode: Episode, reset: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays of a row more than the episode has steps."""
    final = episode.final_observation[None]
    arrays = {
        "observation": np.concatenate([episode.observations, final]),
        "action": _after(np.zeros_like(episode.actions[0]), episode.actions),
        "reward": _after(np.zeros(1, np.float32), episode.rewards[:, None]),
        "discount": _after(np.ones(1, np.float32), episode.discounts[:, None]),
    }
    for name, values in episode.extras.items():
        first = reset[name] if name in reset else np.zeros_like(values[0])
        arrays[name] = _after(first, values)
    return arrays


def _after(first: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([first[None].astype(rows.dtype), rows])
