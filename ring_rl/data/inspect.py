"""What is in a dataset, and what is odd about it, as JSON values and as text."""

import numpy as np

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.manifest import quantiles, spaces_to_json
from ring_rl.types import Continuous

_LISTED = 50  # tasks listed by name; a dataset may have one for each goal
_CHUNK_STEPS = 1 << 16


def inspect(store: EpisodeStore) -> dict:
    """A summary of a dataset that `json.dumps` takes.

    Returns:
      `steps`, `episodes`; `return_quantiles` (undiscounted) and `length_quantiles`
      (environment steps), each from `min` over `5%` to `max`; `spaces`; `tasks`, the
      number of episodes of each of the most frequent 50, and `task_count`, of all;
      `anomalies`, a readable line each.

    Raises:
      ValueError: if the store is empty.
    """
    if not len(store):
        raise ValueError("expected at least one episode, found none")
    tasks = {name: len(episodes) for name, episodes in store.by_task().items()}
    frequent = sorted(tasks.items(), key=lambda task: -task[1])[:_LISTED]
    return {
        "steps": int(store.offsets[-1]),
        "episodes": len(store),
        "return_quantiles": quantiles(store.returns),
        "length_quantiles": quantiles(store.lengths),
        "spaces": spaces_to_json(store.spaces),
        "tasks": dict(frequent),
        "task_count": len(tasks),
        "anomalies": _anomalies(store),
    }


def _anomalies(store: EpisodeStore) -> list[str]:
    """What someone about to train on the dataset would want to know."""
    return [
        *_actions_beyond_bounds(store),
        *_endings(store),
        *_constant_columns(store),
        *_repeated_ids(store),
        *_extras_not_finite(store),
    ]


def _actions_beyond_bounds(store: EpisodeStore) -> list[str]:
    action = store.spaces.action
    if not isinstance(action, Continuous):
        return []
    # Bounds as float32: as float64, an action of exactly 0.1 would lie beyond 0.1.
    low, high = np.asarray([action.low, action.high], np.float32)
    steps, excess = 0, np.float32(0)
    for start in range(0, len(store.actions), _CHUNK_STEPS):
        chunk = store.actions[start : start + _CHUNK_STEPS]
        beyond = np.maximum(low - chunk, chunk - high).max(axis=1)
        steps += int((beyond > 0).sum())
        excess = max(excess, beyond.max())
    if not steps:
        return []
    return [
        f"actions beyond their bounds at {steps} of {len(store.actions)} steps, by "
        f"{excess:.3g} at most"
    ]


def _endings(store: EpisodeStore) -> list[str]:
    lines = []
    unknown = int((~store.has_final_observation).sum())
    if unknown:
        lines.append(f"final observation unknown in {unknown} of {len(store)} episodes")
    endless = int((~store.terminated & ~store.truncated).sum())
    if endless:
        lines.append(f"{endless} episodes neither terminated nor truncated")
    # A time limit cuts every episode at one length. If the last one was cut, and
    # earlier than that, it was by the end of the recording.
    cut = store.truncated & ~store.terminated
    limits = np.unique(store.lengths[:-1][cut[:-1]])
    if cut[-1] and (
        len(limits) == 0 or (len(limits) == 1 and store.lengths[-1] < limits[0])
    ):
        lines.append(
            f"the last episode, of {store.lengths[-1]} steps, was probably cut by the "
            "end of the recording"
        )
    if (store.rewards == store.rewards[0]).all():
        lines.append(f"the reward is {store.rewards[0]:.6g} at every step")
    return lines


def _constant_columns(store: EpisodeStore) -> list[str]:
    columns = np.ones(store.spaces.observation, bool)
    for start in range(0, len(store.observations), _CHUNK_STEPS):
        chunk = store.observations[start : start + _CHUNK_STEPS]
        columns &= (chunk == store.observations[0]).all(axis=0)
    if not columns.any():
        return []
    names = ", ".join(map(str, np.flatnonzero(columns)))
    return [f"observation columns that never change: {names}"]


def _repeated_ids(store: EpisodeStore) -> list[str]:
    ids, counts = np.unique(store.episode_ids, return_counts=True)
    repeated = ids[counts > 1]
    if not len(repeated):
        return []
    return [f"{len(repeated)} episode ids more than once, the first {repeated[0]}"]


def _extras_not_finite(store: EpisodeStore) -> list[str]:
    lines = []
    for name, values in sorted(store.extras.items()):
        steps = sum(
            int((~np.isfinite(values[start : start + _CHUNK_STEPS])).sum())
            for start in range(0, len(values), _CHUNK_STEPS)
        )
        if steps:
            lines.append(f"{name}: {steps} numbers are not finite")
    return lines
