"""An RLDS dataset as a D4RL file: the one it was imported from, or a new one."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from ring_rl.data.formats.d4rl_template import (
    TEMPLATE_NAME,
    left_out,
    restore_timeouts,
    start_from_template,
)
from ring_rl.data.rlds import open_rlds
from ring_rl.types import Discrete, Episode, Spaces

_BLOCK_STEPS = 1 << 16  # written together
_STORED = ("observations", "actions", "rewards", "next_observations")
_OWN = (*_STORED, "terminals", "timeouts")  # the names that D4RL gives a meaning


def export_d4rl(
    directory: Path,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes a dataset as a D4RL file, and returns what was lost, a line each.

    Raises:
      ValueError: if the dataset cannot be read, has discrete actions, or an extra with
        a name that D4RL has for something else.
    """
    spaces, episodes = open_rlds(directory)
    if isinstance(spaces.action, Discrete):
        raise ValueError(
            f"{directory}: expected continuous actions as D4RL has, found discrete "
            "ones; export it as npz"
        )
    template = directory / TEMPLATE_NAME
    with h5py.File(out, "w") as file:
        empty = start_from_template(template, file) if template.is_file() else None
        writer = _Writer(file, spaces, empty)
        for index, episode in enumerate(episodes):
            _check_extras(directory, episode)
            writer.add(episode)
            if progress is not None:
                progress(index + 1, writer.steps)
        return writer.finish(template if empty is not None else None)


def _check_extras(directory: Path, episode: Episode) -> None:
    """Refuses extras that would stand where a file's own datasets do."""
    for name in episode.extras:
        if name.split("/")[0] in _OWN and name != "next_observations":
            raise ValueError(
                f"{directory}: extras {name!r}: expected none named like D4RL's own "
                f"{', '.join(_OWN)}, found it; export it as npz"
            )


class _Writer:
    """Appends episodes to a file, whose datasets stand there already or are made."""

    def __init__(
        self, file: h5py.File, spaces: Spaces, empty: dict[str, h5py.Dataset] | None
    ):
        self.steps = 0
        self._file = file
        self._spaces = spaces
        self._datasets = empty
        self._pending: list[dict[str, np.ndarray]] = []
        self._pending_steps = 0
        self._ends: list[np.ndarray] = []
        self._unknown_finals = 0
        self._odd_discounts = 0
        self._unflagged = 0
        self._tasks: set[str] = set()

    def add(self, episode: Episode) -> None:
        """Takes an episode; it is written with the next ones."""
        steps = len(episode.rewards)
        following = np.concatenate(
            [episode.observations[1:], episode.final_observation[None]]
        )
        terminals, timeouts = np.zeros((2, steps), bool)
        terminals[-1] = episode.terminated
        # With neither flag it would go on into the next episode.
        timeouts[-1] = episode.truncated or not episode.terminated
        self._unflagged += not (episode.terminated or episode.truncated)
        usual = np.ones(steps, np.float32)
        usual[-1] = not episode.terminated
        self._odd_discounts += not np.array_equal(usual, episode.discounts)
        self._unknown_finals += not episode.has_final_observation
        self._tasks.add(episode.task)
        self._ends.append(timeouts)
        self._pending.append(
            {
                "observations": episode.observations,
                "actions": episode.actions,
                "rewards": episode.rewards,
                "terminals": terminals,
                "timeouts": timeouts,
                "next_observations": following,
                # An extra of that name holds what the rows above do not.
                **episode.extras,
            }
        )
        self.steps += steps
        self._pending_steps += steps
        if self._pending_steps >= _BLOCK_STEPS:
            self._write()

    def finish(self, template: Path | None) -> list[str]:
        """Writes the rest; what the file does not say of the dataset."""
        self._write()
        datasets = self._datasets or {}
        lost = []
        if template is not None:
            if "timeouts" in datasets:
                timeouts = restore_timeouts(template, np.concatenate(self._ends))
                item = datasets["timeouts"]
                item[...] = timeouts.reshape(item.shape)
            missing = [name for name, item in datasets.items() if not len(item)]
            for name in missing:
                del self._file[name]
                lost.append(f"{name}: not in the dataset any more, left out")
            lost += [
                f"{name}: text in the source, not in the dataset, left out"
                for name in left_out(template)
            ]
            lost += [
                f"{name}: {item.dtype} in the source, rounded to float32 here"
                for name, item in datasets.items()
                if name in _STORED and name not in missing and item.dtype.itemsize > 4
            ]
        elif self._unknown_finals:
            del self._file["next_observations"]
            lost.append(
                "next_observations: left out, since the final observation of "
                f"{self._unknown_finals} episodes is not known"
            )
        if self._unflagged:
            lost.append(
                f"timeouts: 1 at the ends of {self._unflagged} episodes that were "
                "neither terminated nor truncated"
            )
        if self._odd_discounts:
            lost.append(
                f"discounts: other than 0 at terminals and else 1 in "
                f"{self._odd_discounts} episodes, left out"
            )
        if len(self._tasks) > 1:
            lost.append(f"tasks: the names of {len(self._tasks)} tasks, left out")
        return lost

    def _write(self) -> None:
        """Writes the episodes that wait."""
        if not self._pending:
            return
        columns = {
            name: np.concatenate([episode[name] for episode in self._pending])
            for name in self._pending[0]
        }
        if self._datasets is None:
            self._datasets = {
                name: self._make(name, values) for name, values in columns.items()
            }
        for name, values in columns.items():
            item = self._datasets.get(name)
            if item is None and name in ("timeouts", "next_observations"):
                continue  # the source had none
            if item is None:
                item = self._datasets[name] = self._make(name, values)
            start = item.shape[0]
            item.resize(start + len(values), axis=0)
            item[start:] = values.reshape(len(values), *item.shape[1:])
        self._pending.clear()
        self._pending_steps = 0

    def _make(self, name: str, values: np.ndarray) -> h5py.Dataset:
        return self._file.create_dataset(
            name,
            shape=(0, *values.shape[1:]),
            maxshape=(None, *values.shape[1:]),
            dtype=values.dtype,
            chunks=True,
            compression="gzip",
        )
