"""Trajectories one after another, read at any of their steps.

A chain, or a row of several, is a short table: which part of which episode comes
where, and what it is told. The numbers of a step are looked up in the flat arrays of
the stores when they are asked for, so that a process with a part of a sequence reads
that part only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ring_rl.data.episodes import EpisodeStore
from ring_rl.types import Chain


class Members(NamedTuple):
    """Parts of episodes in the order of a row, one entry a trajectory.

    Attributes:
      store: `[n]` which of the row's stores the episode is in.
      offset: `[n]` row of the episode's first step in the store's arrays.
      length: `[n]` steps of the whole episode.
      first: `[n]` first step of the part.
      steps: `[n]` steps of the part.
      told: `[n]` the largest return of its chain, the target of every member.
      reached: `[n]` whether the episode's return is that.
      weight: `[n]` of its actions in the loss.
      chain: `[n]` number of its chain in the row, from 0, ascending.
    """

    store: Int64[np.ndarray, " n"]
    offset: Int64[np.ndarray, " n"]
    length: Int64[np.ndarray, " n"]
    first: Int64[np.ndarray, " n"]
    steps: Int64[np.ndarray, " n"]
    told: Float64[np.ndarray, " n"]
    reached: Bool[np.ndarray, " n"]
    weight: Float32[np.ndarray, " n"]
    chain: Int64[np.ndarray, " n"]


class Place(NamedTuple):
    """Where steps of a row are: `[k]` member, and row of its store's arrays."""

    member: Int64[np.ndarray, " k"]
    row: Int64[np.ndarray, " k"]


class Row:
    """The steps of a row of chains, by their index in the row."""

    def __init__(self, stores: Sequence[EpisodeStore], chains: Sequence[Members]):
        """Of the members of its chains, numbered here in the order given."""
        self.stores = stores
        numbered = [m._replace(chain=m.chain + i) for i, m in enumerate(chains)]
        columns = zip(*(numbered or [_NOTHING]), strict=True)
        self.members = members = Members(*map(np.concatenate, columns))
        begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(members.steps)])
        self.begins, self.steps = begins[:-1], int(begins[-1])
        # Steps of the row at which its chains begin.
        self.starts = self.begins[np.flatnonzero(np.diff(members.chain, prepend=-1))]
        self._base = members.offset + members.first - self.begins

    def locate(self, steps: Int64[np.ndarray, " k"]) -> Place:
        """Where the given steps are; they ascend."""
        member = which(self.begins, steps)
        return Place(member, self._base[member] + steps)

    def read(self, name: str, place: Place) -> np.ndarray:
        """`[k ...]` of the field of that name of `Chain`."""
        members, (member, row) = self.members, place
        if name == "target_returns":
            told = members.told[member] - self._gather("past_rewards", place)
            return told.astype(np.float32)
        if name == "completions":
            last = (members.offset + members.length - 1)[member]
            return ((row == last) & members.reached[member]).astype(np.float32)
        if name == "timesteps":
            return (row - members.offset[member]).astype(np.int32)
        if name == "weights":
            return members.weight[member]
        return self._gather(name, place)

    def _gather(self, name: str, place: Place) -> np.ndarray:
        arrays = [getattr(store, name) for store in self.stores]
        if len(arrays) == 1:
            return arrays[0].take(place.row, axis=0)
        source = self.members.store[place.member]
        shape = (len(place.row), *arrays[0].shape[1:])
        found = np.empty(shape, arrays[0].dtype)
        for index, array in enumerate(arrays):
            here = source == index
            found[here] = array.take(place.row[here], axis=0)
        return found

    def chain(self) -> Chain:
        """All steps of the row at once."""
        place = self.locate(np.arange(self.steps))
        return Chain(*(self.read(name, place) for name in Chain._fields))


class ChainRow:
    """A row of chains that are arrays already."""

    def __init__(self, chains: Sequence[Chain]):
        """Of chains of the same spaces, at least one."""
        self._chain = Chain(*map(np.concatenate, zip(*chains, strict=True)))
        ends = np.cumsum([len(chain.rewards) for chain in chains])
        self.starts, self.steps = np.append(0, ends[:-1]), int(ends[-1])

    def locate(self, steps: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
        """Steps are their own places."""
        return steps

    def read(self, name: str, place: Int64[np.ndarray, " k"]) -> np.ndarray:
        """`[k ...]` of the field of that name of `Chain`."""
        return getattr(self._chain, name)[place]


def which(
    begins: Int64[np.ndarray, " n"], at: Int64[np.ndarray, " k"]
) -> Int64[np.ndarray, " k"]:
    """In which part each of `at` lies; both ascend and the first part begins at 0."""
    edges = np.append(np.searchsorted(at, begins), len(at))
    return np.repeat(np.arange(len(begins)), edges[1:] - edges[:-1])


_NOTHING = Members(
    *(np.empty(0, np.int64) for _ in range(5)),
    told=np.empty(0),
    reached=np.empty(0, bool),
    weight=np.empty(0, np.float32),
    chain=np.empty(0, np.int64),
)
