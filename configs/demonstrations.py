"""What rows read before they act: chains of a dataset's episodes, as in training."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ring_rl.data.chains import (
    ChainConfig,
    choose_members,
    group_episodes,
    in_hindsight,
)
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.rows import Row
from ring_rl.data.store import open_store
from ring_rl.types import Chain, Spaces


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstrations:
    """Episodes of a dataset, some of which each row reads before its first trial.

    Attributes:
      path: of the dataset.
      store: its episodes.
      per_row: episodes that a row reads; None takes one less than the longest chains
        of the training had, and at least 1.
    """

    path: Path
    store: EpisodeStore
    per_row: int | None = None

    @property
    def digest(self) -> str:
        """Names the episodes by their tasks, lengths and returns."""
        found = hashlib.sha256()
        for array in (self.store.tasks, self.store.offsets, self.store.returns):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:12]

    def count(self, config: ChainConfig) -> int:
        """Episodes that a row of a run with such chains reads."""
        return self.per_row or usual_count(config)

    def check(self, spaces: Spaces) -> None:
        """Raises ValueError where a run with these spaces cannot read them."""
        if self.store.spaces != spaces:
            raise ValueError(
                f"demonstrations: expected a dataset of {spaces}, as the run's, found "
                f"{self.store.spaces} in {self.path}"
            )

    def draw(
        self, tasks: Sequence[str], config: ChainConfig, *, seed: int, unsorted: bool
    ) -> list[Chain]:
        """One chain a row.

        Episodes are chosen, sorted and relabelled as in the run's training; which they
        are depends on the seed and the row's number only.

        Args:
          tasks: of each row, that its demonstrations are to be of; "" where the
            environment has no named tasks: then the dataset must be of a single one.
          config: the run's chains.
          seed: of the draw.
          unsorted: leaves the episodes in an order drawn at random.

        Raises:
          ValueError: the dataset has too few episodes of a task.
        """
        by_task = self.store.by_task()
        if "" in tasks and len(by_task) > 1:
            raise ValueError(
                "demonstrations: expected episodes of a single task, since the "
                f"environment's have no names, found {len(by_task)} in {self.path}"
            )
        only = next(iter(by_task))
        groups = {
            name: self._group(name or only, config) for name in dict.fromkeys(tasks)
        }
        return [
            self._chain(
                *groups[name], config, np.random.default_rng((seed, row)), unsorted
            )
            for row, name in enumerate(tasks)
        ]

    def _group(self, name: str, config: ChainConfig) -> tuple[EpisodeStore, np.ndarray]:
        """The episodes of a task, and which of them the chains are made of."""
        count, by_task = self.count(config), self.store.by_task()
        if name not in by_task:
            known = ", ".join(list(by_task)[:8]) + (", ..." if len(by_task) > 8 else "")
            raise ValueError(
                f"demonstrations: expected episodes of the task {name!r} in "
                f"{self.path}, found {known}"
            )
        store = self.store.select(by_task[name])
        (group,) = group_episodes(store, config)
        if len(group) < count:
            raise ValueError(
                f"demonstrations: expected at least {count} episodes of the task "
                f"{name!r} in {self.path}, found {len(group)}"
            )
        return store, group

    def _chain(
        self,
        store: EpisodeStore,
        group: np.ndarray,
        config: ChainConfig,
        random: np.random.Generator,
        unsorted: bool,
    ) -> Chain:
        members = choose_members(group, self.count(config), config, random)
        if unsorted:
            members = random.permutation(members)
            # They then stay as they were drawn.
            config = dataclasses.replace(config, choose="uniform", order="shuffled")
        # Whole episodes, as a row's own trials are, whatever training cropped.
        lengths = store.lengths[members]
        found = in_hindsight(store, members, np.zeros_like(lengths), lengths, config)
        return Row([store], [found]).chain()


def usual_count(config: ChainConfig) -> int:
    """Episodes that a row reads unless told otherwise."""
    return max(1, config.trajectories - 1)


def open_demonstrations(path: Path, per_row: int | None) -> Demonstrations:
    """The demonstrations of a folder that `ring-rl data import` or `collect` wrote.

    Raises:
      ValueError: there is no dataset that can be read.
    """
    return Demonstrations(path, open_store(path), per_row)
