"""Hindsight: episodes of one task, sorted by return and relabelled, make a chain.

Every member is told the chain's largest return as its target, so that the chain reads
as a record of getting better at what was asked. The completion token marks the ends
of those episodes that reached it.

Source: Liu & Abbeel 2023, Agentic Transformer (arXiv 2305.16554), section 3.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ring_rl.data.episodes import EpisodeStore
from ring_rl.types import Chain


@dataclasses.dataclass(frozen=True)
class ChainConfig:
    """How chains are made.

    Attributes:
      trajectories: largest number of episodes in a chain; the number is drawn from
        1 to this, both included, and never more than the task has.
      loss_on: members whose actions count: `good` (return at least half the chain's
        largest; where that is negative, only the best), `all`, or `last`.
      best: share of each task's episodes, by return, that is used at all; below 1 for
        imitation of the best.
    """

    trajectories: int = 4
    loss_on: Literal["good", "all", "last"] = "good"
    best: float = 1.0

    def __post_init__(self):
        """Checks the ranges."""
        if self.trajectories < 1:
            raise ValueError(
                f"chains: trajectories must be at least 1, found {self.trajectories}"
            )
        if not 0 < self.best <= 1:
            raise ValueError(f"chains: best must be in (0, 1], found {self.best}")
        if self.loss_on not in ("good", "all", "last"):
            raise ValueError(
                f"chains: loss_on must be good, all or last, found {self.loss_on!r}"
            )


def best_episodes(store: EpisodeStore, share: float) -> EpisodeStore:
    """The best `share` of each task's episodes by return, at least one a task."""
    if share == 1:
        return store
    kept = []
    for indices in store.by_task().values():
        order = indices[np.argsort(-store.returns[indices], kind="stable")]
        kept.append(order[: max(1, round(share * len(order)))])
    return store.select(np.sort(np.concatenate(kept)))


def draw_members(
    groups: list[Int[np.ndarray, " _"]],
    trajectories: int,
    random: np.random.Generator,
) -> Int[np.ndarray, " members"]:
    """Indices of a chain's episodes: a task, a number of members, then the members.

    Tasks are equally likely; members are drawn without replacement, since a repeated
    one would teach to copy.
    """
    group = groups[random.integers(len(groups))]
    count = min(int(random.integers(1, trajectories, endpoint=True)), len(group))
    return random.choice(group, size=count, replace=False)


def make_chain(
    store: EpisodeStore, members: Int[np.ndarray, " members"], loss_on: str
) -> Chain:
    """Sorts the members by return (ties by index) and relabels them in hindsight."""
    members = members[np.lexsort((members, store.returns[members]))]
    returns = store.returns[members]
    weights = member_weights(returns, loss_on)
    episodes = [store.episode(int(index)) for index in members]
    targets, completions = [], []
    for episode, total in zip(episodes, returns, strict=True):
        rewards = episode.rewards.astype(np.float64)
        targets.append(returns[-1] - (np.cumsum(rewards) - rewards))
        completion = np.zeros(len(rewards))
        completion[-1] = total >= returns[-1]
        completions.append(completion)
    lengths = [len(episode.rewards) for episode in episodes]
    return Chain(
        np.concatenate([episode.observations for episode in episodes]),
        np.concatenate([episode.actions for episode in episodes]),
        np.concatenate([episode.rewards for episode in episodes]),
        np.concatenate(targets).astype(np.float32),
        np.concatenate(completions).astype(np.float32),
        np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        np.repeat(weights, lengths),
    )


def member_weights(
    returns: Float[np.ndarray, " members"], loss_on: str
) -> Float[np.ndarray, " members"]:
    """Weight in the loss of each member of a chain, given ascending returns."""
    weights = np.zeros(len(returns), np.float32)
    if loss_on == "last":
        weights[-1] = 1
    elif loss_on == "all":
        weights[:] = 1
    else:
        largest = returns[-1]
        weights[returns >= min(largest / 2, largest)] = 1
    return weights
