"""What a D4RL file is made of: its datasets, checked, and where its episodes end."""

from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Bool, Int64

from ring_rl.data.formats.hdf5 import dataset, datasets_below, mismatch, read_rows

_BLOCK_STEPS = 1 << 16
_WIDE = ("observations", "actions", "next_observations")
_NARROW = ("rewards", "terminals", "timeouts")
_OPTIONAL = ("next_observations", "timeouts")


class Layout(NamedTuple):
    """What the names, shapes and types of a file say.

    Attributes:
      steps: rows of everything that has a row a step.
      observation: O.
      action: A.
      has_timeouts: whether there are `timeouts`.
      has_next_observations: whether there are `next_observations`.
      extras: full names of further datasets of numbers with a row a step.
      texts: full names of texts in `infos`, which are left out.
      others: full names of all other datasets, `metadata/*` among them.
    """

    steps: int
    observation: int
    action: int
    has_timeouts: bool
    has_next_observations: bool
    extras: tuple[str, ...]
    texts: tuple[str, ...]
    others: tuple[str, ...]


class Boundaries(NamedTuple):
    """Where the episodes of a file end: `[episodes]` each."""

    ends: Int64[np.ndarray, " episodes"]
    terminated: Bool[np.ndarray, " episodes"]
    truncated: Bool[np.ndarray, " episodes"]


def read_boundaries(
    file: h5py.File, layout: Layout, max_episode_steps: int | None = None
) -> Boundaries:
    """Finds the episodes' ends from the flags, the step limit and the file's end.

    Raises:
      ValueError: if a flag is neither 0 nor 1.
    """
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
    return Boundaries(ends, terminated, timeouts[ends - 1] | ~terminated)


def timeout_rows(file: h5py.File, layout: Layout) -> Int64[np.ndarray, " rows"]:
    """The rows with a timeout; none in a file without `timeouts`."""
    if not layout.has_timeouts:
        return np.zeros(0, np.int64)
    return np.flatnonzero(_flags(file, "timeouts", layout.steps))


def _flags(file: h5py.File, name: str, steps: int) -> Bool[np.ndarray, " steps"]:
    """A flag of every step of the file; a byte a step, so all are kept at once."""
    flags = np.empty(steps, bool)
    for start in range(0, steps, _BLOCK_STEPS):
        rows = slice(start, min(start + _BLOCK_STEPS, steps))
        values = read_rows(file, name, rows).reshape(-1)
        flags[rows] = values
        wrong = np.flatnonzero(values != flags[rows])
        if len(wrong):
            found = f"{values[wrong[0]]} in row {start + wrong[0]}"
            raise mismatch(file, name, "0 and 1", found)
    return flags


def read_layout(file: h5py.File) -> Layout:
    """Checks names, types and shapes of a file without reading its values.

    Raises:
      ValueError: naming the dataset that D4RL's schema has otherwise.
    """
    rewards = dataset(file, "rewards")
    steps = rewards.shape[0] if rewards.shape else 0
    if not steps:
        raise mismatch(file, "rewards", "[steps] numbers", rewards)
    names = datasets_below(file)
    found = {
        name: dataset(file, name)
        for name in (*_WIDE, *_NARROW)
        if name in names or name not in _OPTIONAL
    }
    for name, item in found.items():
        kinds, numbers = ("f", "floats") if name in _WIDE else ("biuf", "numbers")
        _check_numbers(file, name, item, steps, kinds, numbers)
        if name in _WIDE and (item.ndim != 2 or not item.shape[1]):
            raise mismatch(file, name, f"[{steps}, width] numbers", item)
        if name in _NARROW and item.shape not in ((steps,), (steps, 1)):
            raise mismatch(file, name, f"[{steps}] numbers", item)
    observations = found["observations"]
    following = found.get("next_observations", observations)
    if following.shape != observations.shape:
        expected = f"{list(observations.shape)} as in observations"
        raise mismatch(file, "next_observations", expected, following)
    extras, texts, others = [], [], []
    for name in names:
        if name in found:
            continue
        item = dataset(file, name)
        if name.startswith("infos/"):
            if h5py.check_string_dtype(item.dtype) is not None:
                texts.append(name)
                continue
            _check_numbers(file, name, item, steps, "biuf", "numbers")
        elif name.startswith("metadata/") or not _has_rows(item, steps):
            others.append(name)
            continue
        extras.append(name)
    return Layout(
        steps=steps,
        observation=observations.shape[1],
        action=found["actions"].shape[1],
        has_timeouts="timeouts" in found,
        has_next_observations="next_observations" in found,
        extras=tuple(extras),
        texts=tuple(texts),
        others=tuple(others),
    )


def _check_numbers(
    file: h5py.File, name: str, item: h5py.Dataset, steps: int, kinds: str, what: str
) -> None:
    """Refuses what is not a row of numbers a step."""
    if item.dtype.kind not in kinds or item.dtype.itemsize > 8:
        raise mismatch(file, name, what, item)
    if item.shape[:1] != (steps,):
        raise mismatch(file, name, f"{steps} rows as in rewards", item)


def _has_rows(item: h5py.Dataset, steps: int) -> bool:
    """Whether a dataset has a row of numbers a step."""
    numeric = item.dtype.kind in "biuf" and item.dtype.itemsize <= 8
    return numeric and item.shape[:1] == (steps,)
