"""Parts of a collection in files, each there whole or not at all."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.collect.recorder import Recorded
from ring_rl.data.formats.archives import open_npz
from ring_rl.types import Episode

_STEP_FIELDS = ("observations", "actions", "rewards", "discounts")
_EPISODE_FIELDS = (
    "final_observation",
    "has_final_observation",
    "terminated",
    "truncated",
    "task",
    "episode_id",
)
_EXTRA, _RESET, _STATE = "extra/", "reset/", "state/"


def part_path(folder: Path, number: int) -> Path:
    """Where a part of a collection lies."""
    return folder / f"part-{number:06d}.npz"


def write_part(
    path: Path, recorded: Sequence[Recorded], state: dict[str, np.ndarray]
) -> None:
    """Writes episodes, at least one, and what the next part is to go on from.

    Raises:
      OSError: there is no room; nothing is left then.
    """
    episodes = [entry.episode for entry in recorded]
    first = recorded[0]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(episode, name) for episode in episodes])
        for name in _STEP_FIELDS
    }
    for name in _EPISODE_FIELDS:
        arrays[name] = np.array([getattr(episode, name) for episode in episodes])
    arrays["length"] = np.array([len(episode.rewards) for episode in episodes])
    for name in first.episode.extras:
        rows = [episode.extras[name] for episode in episodes]
        arrays[_EXTRA + name] = np.concatenate(rows)
        arrays[_RESET + name] = np.array([entry.reset[name] for entry in recorded])
    arrays |= {_STATE + name: values for name, values in state.items()}
    handle, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        os.unlink(name)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        os.unlink(name)
        raise


def read_lengths(path: Path) -> list[int]:
    """Environment steps of each episode of a part."""
    with open_npz(path) as archive:
        return archive.read("length").tolist()


def read_state(path: Path) -> dict[str, np.ndarray]:
    """What the part after this one goes on from."""
    with open_npz(path) as archive:
        return {
            name.removeprefix(_STATE): archive.read(name)
            for name in archive.headers
            if name.startswith(_STATE)
        }


def read_part(path: Path) -> Iterator[Recorded]:
    """The episodes of a part, in their order."""
    with open_npz(path) as archive:
        arrays = {
            name: archive.read(name)
            for name in archive.headers
            if not name.startswith(_STATE)
        }
    ends = np.cumsum(arrays["length"]).tolist()
    extras = [name.removeprefix(_EXTRA) for name in arrays if name.startswith(_EXTRA)]
    for index, end in enumerate(ends):
        steps = slice(end - int(arrays["length"][index]), end)
        fields: dict[str, Any] = {name: arrays[name][steps] for name in _STEP_FIELDS}
        for name in _EPISODE_FIELDS:
            value = arrays[name][index]
            fields[name] = value if value.ndim else value.item()
        fields["extras"] = {name: arrays[_EXTRA + name][steps] for name in extras}
        reset = {name: arrays[_RESET + name][index] for name in extras}
        yield Recorded(Episode(**fields), reset)
