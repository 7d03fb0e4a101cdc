"""A dataset as flat arrays of steps and the offsets of episodes.

Every reader produces episodes, every later stage consumes an `EpisodeStore`: random
access to any episode is two offsets and a view, whatever the size of the dataset. The
arrays are in memory (`EpisodeStore.from_episodes`) or mapped from files
(`ring_rl.data.store`); both are filled by a `StoreBuilder`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64, Shaped

from ring_rl.data.checks import check_episode
from ring_rl.data.moments import Moments, compute_moments
from ring_rl.types import Episode, Spaces

_PER_STEP = ("observations", "actions", "rewards", "discounts", "past_rewards")
_PER_EPISODE = (
    "final_observations",
    "has_final_observation",
    "terminated",
    "truncated",
    "tasks",
    "episode_ids",
)


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeStore:
    """Episodes as flat arrays; any of the arrays may be a memory map.

    Step i of episode e is row `offsets[e] + i` of the per-step arrays.

    Attributes:
      spaces: what the observations and actions are.
      observations: `[steps O]` float32.
      actions: `[steps A]` float32, or `[steps]` int32 for discrete actions.
      rewards: `[steps]` float32.
      discounts: `[steps]` float32.
      past_rewards: `[steps]` float64, sum of the episode's rewards before each step.
      final_observations: `[episodes O]` float32, seen after the last action.
      has_final_observation: `[episodes]`, whether the former is real.
      terminated: `[episodes]`, the task ended the episode.
      truncated: `[episodes]`, a time limit or the end of the recording did.
      tasks: `[episodes]` names, a NumPy string array.
      episode_ids: `[episodes]` int64, in the order of collection.
      offsets: `[episodes+1]` int64, from 0 to the number of steps, increasing.
      extras: further arrays `[steps ...]` by name (physics, infos).
      kept_moments: of the observations, where they are kept with the data.
    """

    spaces: Spaces
    observations: Float32[np.ndarray, "steps O"]
    actions: Float32[np.ndarray, "steps A"] | Int32[np.ndarray, " steps"]
    rewards: Float32[np.ndarray, " steps"]
    discounts: Float32[np.ndarray, " steps"]
    past_rewards: Float64[np.ndarray, " steps"]
    final_observations: Float32[np.ndarray, "episodes O"]
    has_final_observation: Bool[np.ndarray, " episodes"]
    terminated: Bool[np.ndarray, " episodes"]
    truncated: Bool[np.ndarray, " episodes"]
    tasks: Shaped[np.ndarray, " episodes"]
    episode_ids: Int64[np.ndarray, " episodes"]
    offsets: Int64[np.ndarray, " episodes+1"]
    extras: dict[str, np.ndarray]
    kept_moments: Moments | None = None

    @classmethod
    def from_episodes(
        cls, episodes: Iterable[Episode], spaces: Spaces
    ) -> "EpisodeStore":
        """Checks and concatenates episodes, in memory.

        Raises:
          ValueError: for an empty iterable, or an episode that breaks its contract;
            the message names the episode's index in the iterable and the field.
        """
        builder = StoreBuilder(spaces, lambda name, like: _InMemory())
        for episode in episodes:
            builder.add(episode)
        return builder.build()

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self.offsets) - 1

    @functools.cached_property
    def lengths(self) -> Int64[np.ndarray, " episodes"]:
        """Environment steps of each episode."""
        return np.diff(self.offsets)

    @functools.cached_property
    def returns(self) -> Float64[np.ndarray, " episodes"]:
        """Undiscounted return of each episode, summed in float64."""
        return np.add.reduceat(self.rewards, self.offsets[:-1], dtype=np.float64)

    def episode(self, index: int) -> Episode:
        """Episode number `index` (negative: from the end), as views, without copies.

        Raises:
          IndexError: if there is no such episode.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected an episode below {len(self)}, found {index}")
        index %= len(self)
        steps = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Episode(
            observations=self.observations[steps],
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            discounts=self.discounts[steps],
            final_observation=self.final_observations[index],
            has_final_observation=bool(self.has_final_observation[index]),
            terminated=bool(self.terminated[index]),
            truncated=bool(self.truncated[index]),
            task=str(self.tasks[index]),
            episode_id=int(self.episode_ids[index]),
            extras={name: values[steps] for name, values in self.extras.items()},
        )

    def select(self, indices: Int[np.ndarray, " n"] | Sequence[int]) -> "EpisodeStore":
        """A store of copies of these episodes, in this order (repeats are allowed).

        Raises:
          IndexError: if an index names no episode.
        """
        chosen = np.asarray(indices, np.int64)
        lengths = self.lengths[chosen]
        offsets = _offsets(lengths)
        # Row r of the result is the r-th step of its episode, counted from where that
        # episode starts here instead of there.
        rows = np.arange(offsets[-1]) + np.repeat(
            self.offsets[:-1][chosen] - offsets[:-1], lengths
        )
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[rows] for name in _PER_STEP},
            **{name: getattr(self, name)[chosen] for name in _PER_EPISODE},
            offsets=offsets,
            extras={name: values[rows] for name, values in self.extras.items()},
            kept_moments=None,
        )

    def by_task(self) -> dict[str, Int64[np.ndarray, " n"]]:
        """Episode indices of each task, ascending; tasks in alphabetical order."""
        names, task_of = np.unique(self.tasks, return_inverse=True)
        return {
            str(name): np.flatnonzero(task_of == task)
            for task, name in enumerate(names)
        }

    @functools.cached_property
    def moments(self) -> Moments:
        """Of the observations at all steps; final observations are not counted.

        Raises:
          ValueError: if the store is empty.
        """
        if self.kept_moments is not None:
            return self.kept_moments
        if not len(self):
            raise ValueError("expected at least one episode, found none")
        return compute_moments(self.observations)


@runtime_checkable
class Column(Protocol):
    """An array that grows by rows."""

    def append(self, values: np.ndarray) -> None:
        """Adds rows, all of one shape and type but for their number."""
        ...

    def finish(self) -> np.ndarray:
        """All rows; nothing is added afterwards."""
        ...


class _InMemory:
    """Pieces, joined at the end."""

    def __init__(self):
        self._pieces: list[np.ndarray] = []

    def append(self, values: np.ndarray) -> None:
        self._pieces.append(values)

    def finish(self) -> np.ndarray:
        # The pieces are let go at once: the peak of a build is the dataset and its
        # widest column, not the dataset twice.
        whole, self._pieces = np.concatenate(self._pieces), []
        return whole


class StoreBuilder:
    """Fills a store, an episode at a time, through columns of its maker's choice."""

    def __init__(self, spaces: Spaces, column: Callable[[str, np.ndarray], Column]):
        """`column(name, like)` makes the column of a per-step array.

        `name` is that of a field of `EpisodeStore`, or of an extra array after
        `extras/`; `like` are rows of its type and shape.
        """
        self._spaces, self._make = spaces, column
        self._columns: dict[str, Column] = {}
        self._episodes: dict[str, list] = {name: [] for name in _PER_EPISODE}
        self._lengths: list[int] = []
        self._first: Episode | None = None

    def add(self, episode: Episode) -> None:
        """Checks an episode and adds it.

        Raises:
          ValueError: if it breaks its contract; the message names its index and field.
        """
        check_episode(episode, self._spaces, len(self._lengths), like=self._first)
        if self._first is None:
            self._first = episode
        rewards = episode.rewards.astype(np.float64)
        arrays = {
            "observations": episode.observations,
            "actions": episode.actions,
            "rewards": episode.rewards,
            "discounts": episode.discounts,
            "past_rewards": np.cumsum(rewards) - rewards,
            **{f"extras/{name}": values for name, values in episode.extras.items()},
        }
        for name, values in arrays.items():
            if name not in self._columns:
                self._columns[name] = self._make(name, values)
            self._columns[name].append(values)
        self._lengths.append(len(episode.rewards))
        entries = self._episodes
        # Copied: it may be a view that would keep its whole record alive.
        entries["final_observations"].append(episode.final_observation.copy())
        entries["has_final_observation"].append(episode.has_final_observation)
        entries["terminated"].append(episode.terminated)
        entries["truncated"].append(episode.truncated)
        entries["tasks"].append(episode.task)
        entries["episode_ids"].append(episode.episode_id)

    def build(self) -> EpisodeStore:
        """The store of all episodes added.

        Raises:
          ValueError: if there is none.
        """
        if self._first is None:
            raise ValueError("expected at least one episode, found none")
        entries = self._episodes
        columns: dict[str, Any] = {
            name: self._columns.pop(name).finish() for name in [*self._columns]
        }
        extras = {
            name.removeprefix("extras/"): columns.pop(name)
            for name in [*columns]
            if name.startswith("extras/")
        }
        return EpisodeStore(
            spaces=self._spaces,
            **columns,
            offsets=_offsets(np.asarray(self._lengths, np.int64)),
            final_observations=np.stack(entries["final_observations"]),
            has_final_observation=np.asarray(entries["has_final_observation"], bool),
            terminated=np.asarray(entries["terminated"], bool),
            truncated=np.asarray(entries["truncated"], bool),
            tasks=np.asarray(entries["tasks"], np.str_),
            episode_ids=np.asarray(entries["episode_ids"], np.int64),
            extras=extras,
        )


def _offsets(lengths: Int64[np.ndarray, " episodes"]) -> Int64[np.ndarray, " bounds"]:
    """`[episodes+1]` offsets of episodes of these lengths."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
