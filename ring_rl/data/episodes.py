"""The in-memory form of a dataset: flat arrays of steps and the offsets of episodes.

Every reader produces episodes, every later stage consumes an `EpisodeStore`: random
access to any episode is two offsets and a view, whatever the size of the dataset.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64, Shaped

from ring_rl.data.checks import check_episode
from ring_rl.types import Episode, Spaces

_CHUNK_STEPS = 1 << 16  # rows looked at together: bounds the memory of a pass
_PER_STEP = ("observations", "actions", "rewards", "discounts")
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
      final_observations: `[episodes O]` float32, seen after the last action.
      has_final_observation: `[episodes]`, whether the former is real.
      terminated: `[episodes]`, the task ended the episode.
      truncated: `[episodes]`, a time limit or the end of the recording did.
      tasks: `[episodes]` names, a NumPy string array.
      episode_ids: `[episodes]` int64, in the order of collection.
      offsets: `[episodes+1]` int64, from 0 to the number of steps, increasing.
      extras: further arrays `[steps ...]` by name (physics, infos).
    """

    spaces: Spaces
    observations: Float32[np.ndarray, "steps O"]
    actions: Float32[np.ndarray, "steps A"] | Int32[np.ndarray, " steps"]
    rewards: Float32[np.ndarray, " steps"]
    discounts: Float32[np.ndarray, " steps"]
    final_observations: Float32[np.ndarray, "episodes O"]
    has_final_observation: Bool[np.ndarray, " episodes"]
    terminated: Bool[np.ndarray, " episodes"]
    truncated: Bool[np.ndarray, " episodes"]
    tasks: Shaped[np.ndarray, " episodes"]
    episode_ids: Int64[np.ndarray, " episodes"]
    offsets: Int64[np.ndarray, " episodes+1"]
    extras: dict[str, np.ndarray]

    @classmethod
    def from_episodes(
        cls, episodes: Iterable[Episode], spaces: Spaces
    ) -> "EpisodeStore":
        """Checks and concatenates episodes.

        Raises:
          ValueError: for an empty iterable, or an episode that breaks its contract;
            the message names the episode's index in the iterable and the field.
        """
        columns: dict[str, list[np.ndarray]] = {name: [] for name in _PER_STEP}
        entries: dict[str, list] = {name: [] for name in _PER_EPISODE}
        lengths: list[int] = []
        extras: dict[str, list[np.ndarray]] = {}
        first: Episode | None = None
        for index, episode in enumerate(episodes):
            check_episode(episode, spaces, index, like=first)
            if first is None:
                first = episode
                extras = {name: [] for name in episode.extras}
            lengths.append(len(episode.rewards))
            for name in _PER_STEP:
                columns[name].append(getattr(episode, name))
            for name, values in episode.extras.items():
                extras[name].append(values)
            entries["final_observations"].append(episode.final_observation)
            entries["has_final_observation"].append(episode.has_final_observation)
            entries["terminated"].append(episode.terminated)
            entries["truncated"].append(episode.truncated)
            entries["tasks"].append(episode.task)
            entries["episode_ids"].append(episode.episode_id)
        if first is None:
            raise ValueError("expected at least one episode, found none")
        # A column's pieces are let go as soon as it is joined: the peak is the dataset
        # and its widest column, not the dataset twice.
        return cls(
            spaces=spaces,
            **{name: np.concatenate(columns.pop(name)) for name in _PER_STEP},
            offsets=_offsets(np.asarray(lengths, np.int64)),
            final_observations=np.stack(entries["final_observations"]),
            has_final_observation=np.asarray(entries["has_final_observation"], bool),
            terminated=np.asarray(entries["terminated"], bool),
            truncated=np.asarray(entries["truncated"], bool),
            tasks=np.asarray(entries["tasks"], np.str_),
            episode_ids=np.asarray(entries["episode_ids"], np.int64),
            extras={name: np.concatenate(extras.pop(name)) for name in tuple(extras)},
        )

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
        )

    def by_task(self) -> dict[str, Int64[np.ndarray, " n"]]:
        """Episode indices of each task, ascending; tasks in alphabetical order."""
        names, task_of = np.unique(self.tasks, return_inverse=True)
        return {
            str(name): np.flatnonzero(task_of == task)
            for task, name in enumerate(names)
        }

    def observation_statistics(
        self, *, floor: float = 1e-3
    ) -> tuple[Float64[np.ndarray, " O"], Float64[np.ndarray, " O"]]:
        """Mean and standard deviation of each observation column, in one pass.

        The standard deviation (of the population) is at least `floor`: a column that
        never changes in the data would otherwise blow up the first time it does at
        test time. Final observations are not counted.

        Raises:
          ValueError: if the store is empty.
        """
        if not len(self):
            raise ValueError("expected at least one episode, found none")
        count, mean, squares = 0, np.zeros(self.spaces.observation), 0.0
        for start in range(0, len(self.observations), _CHUNK_STEPS):
            # Chan, Golub, LeVeque 1979: merging chunk means is stable, a running sum of
            # squares is not.
            chunk = self.observations[start : start + _CHUNK_STEPS].astype(np.float64)
            chunk_mean = chunk.mean(axis=0)
            delta, total = chunk_mean - mean, count + len(chunk)
            squares = (
                squares
                + np.square(chunk - chunk_mean).sum(axis=0)
                + np.square(delta) * (count * len(chunk) / total)
            )
            mean = mean + delta * (len(chunk) / total)
            count = total
        return mean, np.maximum(np.sqrt(squares / count), floor)


def _offsets(lengths: Int64[np.ndarray, " episodes"]) -> Int64[np.ndarray, " bounds"]:
    """`[episodes+1]` offsets of episodes of these lengths."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
