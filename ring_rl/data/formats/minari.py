"""Minari's local datasets as episodes, read without the library.

A dataset is a folder with `data/metadata.json`, which has the spaces as JSON, and
`data/main_data.hdf5`: a group `episode_N` an episode, with `observations` and `infos`
of steps + 1 rows, `actions`, `rewards`, `terminations` and `truncations` of steps rows.
Observations that are dictionaries or tuples are groups.

Source: https://minari.farama.org, dataset standards.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ring_rl.data.formats.hdf5 import (
    dataset,
    datasets_below,
    group_names,
    mismatch,
    open_hdf5,
    read_finite,
    read_rows,
)
from ring_rl.data.formats.minari_metadata import read_metadata
from ring_rl.types import Continuous, Episode, Spaces

_EPISODE = re.compile(r"episode_(\d{1,12})")
_FLAGS = ("terminations", "truncations")


def resolve_minari(name: str) -> Path:
    """The folder of a dataset: that path, or that id among the local datasets.

    Those are below `$MINARI_DATASETS_PATH`, or `~/.minari/datasets`.

    Raises:
      ValueError: if there is no such folder; with the command that downloads it.
    """
    root = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    places = [Path(name), Path(root).expanduser() / name]
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(
        f"{name}: expected a Minari dataset's folder or the id of a local one, found "
        f"neither {places[0]} nor {places[1]}; minari download {name} fetches it"
    )


def open_minari(
    source: Path | str,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces of a dataset, and its episodes by number, one at a time.

    Observations that are dictionaries are flattened into one row: the entries sorted
    by name, at every level, and each in row-major order; tuples in their order. So are
    actions. float64 is rounded to float32. `infos` become extras `infos/NAME`; of
    those with steps + 1 rows the first, which the reset gave, is left out, and so is
    text.

    Args:
      source: the folder with `data`, or an id; see `resolve_minari`.
      action_bounds: of every action column, where the dataset has no finite ones.
      task: name of the task; the dataset's id unless given.

    Raises:
      ValueError: if the folder is not a Minari dataset of numbers, before the first
        episode; for an episode that is laid out otherwise, when it is reached.
    """
    folder = resolve_minari(str(source)) / "data"
    metadata = read_metadata(folder / "metadata.json", action_bounds)
    path = folder / "main_data.hdf5"
    with open_hdf5(path) as file:
        numbers = sorted(
            int(match[1])
            for name in group_names(file)
            if (match := _EPISODE.fullmatch(name))
        )
        if len(numbers) != metadata.episodes or not numbers:
            raise ValueError(
                f"{path}: expected {metadata.episodes} episodes as metadata.json says, "
                f"at least one, found {len(numbers)}"
            )
        first = f"episode_{numbers[0]}"
        rows = _steps(file, first) + 1
        width = _flattened(file, f"{first}/observations", rows).shape[1]
    spaces = Spaces(width, metadata.action)
    name = task or metadata.dataset_id or folder.resolve().parent.name
    return spaces, _episodes(path, numbers, spaces, name)


def _episodes(
    path: Path, numbers: list[int], spaces: Spaces, task: str
) -> Iterator[Episode]:
    with open_hdf5(path) as file:
        for number in numbers:
            yield _episode(file, f"episode_{number}", number, spaces, task)


def _episode(
    file: h5py.File, group: str, number: int, spaces: Spaces, task: str
) -> Episode:
    """Reads an episode's group."""
    steps = _steps(file, group)
    observations = _flattened(file, f"{group}/observations", steps + 1)
    if observations.shape[1] != spaces.observation:
        expected = f"{spaces.observation} numbers a step"
        found = observations.shape[1]
        raise mismatch(file, f"{group}/observations", expected, found)
    flags = {name: _flag(file, f"{group}/{name}", steps) for name in _FLAGS}
    terminated = flags["terminations"]
    discounts = np.ones(steps, np.float32)
    discounts[-1] = not terminated
    return Episode(
        observations=observations[:-1],
        actions=_actions(file, f"{group}/actions", steps, spaces),
        rewards=_finite(file, f"{group}/rewards", steps),
        discounts=discounts,
        final_observation=observations[-1],
        has_final_observation=True,
        terminated=terminated,
        truncated=flags["truncations"] or not terminated,
        task=task,
        episode_id=number,
        extras={
            name.removeprefix(f"{group}/"): _info(file, name, steps)
            for name in datasets_below(file, f"{group}/infos")
            if h5py.check_string_dtype(dataset(file, name).dtype) is None
        },
    )


def _steps(file: h5py.File, group: str) -> int:
    """The number of steps of an episode."""
    name = f"{group}/rewards"
    rewards = dataset(file, name)
    if rewards.ndim != 1 or not rewards.shape[0]:
        raise mismatch(file, name, "[steps] numbers", rewards)
    return rewards.shape[0]


def _actions(file: h5py.File, name: str, steps: int, spaces: Spaces) -> np.ndarray:
    if isinstance(spaces.action, Continuous):
        actions = _flattened(file, name, steps)
        if actions.shape[1] != spaces.action.size:
            expected = f"{spaces.action.size} numbers a step"
            raise mismatch(file, name, expected, actions.shape[1])
        return actions
    item = dataset(file, name)
    if item.shape != (steps,) or item.dtype.kind not in "iu":
        raise mismatch(file, name, f"[{steps}] integers", item)
    values = read_rows(file, name, slice(0, steps))
    wrong = np.flatnonzero((values < 0) | (values >= spaces.action.size))
    if len(wrong):
        found = f"{values[wrong[0]]} in row {wrong[0]}"
        raise mismatch(file, name, f"actions from 0 to {spaces.action.size - 1}", found)
    return values.astype(np.int32)


def _flattened(file: h5py.File, name: str, rows: int) -> np.ndarray:
    """`[rows width]` float32 of a dataset, or of all in a group, in their order."""
    below = datasets_below(file, name) or (name,)
    if below != (name,):
        below = tuple(sorted(below, key=_place))
    return np.concatenate(
        [_finite(file, leaf, rows).reshape(rows, -1) for leaf in below], axis=1
    )


def _place(name: str) -> list[tuple[int, str]]:
    """Sorts entries of tuples, `_index_N`, by number and others by name."""
    return [
        (int(part[7:]) if re.fullmatch(r"_index_\d{1,9}", part) else -1, part)
        for part in name.split("/")
    ]


def _finite(file: h5py.File, name: str, rows: int) -> np.ndarray:
    """All rows of a dataset of numbers as float32."""
    item = dataset(file, name)
    if item.dtype.kind not in "biuf" or item.dtype.itemsize > 8:
        raise mismatch(file, name, "numbers", item)
    if item.shape[:1] != (rows,) or 0 in item.shape:
        raise mismatch(file, name, f"{rows} rows", item)
    return read_finite(file, name, slice(0, rows))


def _flag(file: h5py.File, name: str, steps: int) -> bool:
    """The flag of the last step; no other one may have it."""
    item = dataset(file, name)
    if item.shape != (steps,) or item.dtype.kind not in "biuf":
        raise mismatch(file, name, f"[{steps}] flags", item)
    values = read_rows(file, name, slice(0, steps))
    wrong = np.flatnonzero(values[:-1])
    if len(wrong) or values[-1] not in (0, 1):
        row = wrong[0] if len(wrong) else steps - 1
        found = f"{values[row]} in row {row}"
        raise mismatch(file, name, "0, and 0 or 1 at the end", found)
    return bool(values[-1])


def _info(file: h5py.File, name: str, steps: int) -> np.ndarray:
    """Numbers of every step that came with its reward."""
    item = dataset(file, name)
    if item.dtype.kind not in "biuf" or item.dtype.itemsize > 8:
        raise mismatch(file, name, "numbers", item)
    rows = item.shape[0] if item.shape else 0
    if rows not in (steps, steps + 1):
        raise mismatch(file, name, f"{steps} or {steps + 1} rows", item)
    return read_rows(file, name, slice(rows - steps, rows))
