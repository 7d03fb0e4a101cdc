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
from ring_rl.data.rows import Members, Row
from ring_rl.types import Chain

Groups = list[Int[np.ndarray, " _"]]
LossOn = Literal["good", "all", "last"]


@dataclasses.dataclass(frozen=True)
class ChainConfig:
    """How chains are made.

    Attributes:
      trajectories: largest number of episodes in a chain; the number is drawn from
        1 to this, both included, and never more than the task has.
      choose: which episodes of the task: `uniform`, any; `quantiles`, one from each of
        as many equal parts of the task's returns; `history`, some that were collected
        one after another, in that order and not sorted (a learner's history, as in
        algorithm distillation, arXiv 2210.14215).
      order: `ascending` by return, or `shuffled`, to see what the order is worth.
      crop_steps: at most so many consecutive steps of each episode, from a start drawn
        at random; 0 takes whole episodes. Targets stay what was left to earn there, and
        only the real end of an episode completes it.
      loss_on: members whose actions count: `good` (return at least half the chain's
        largest; where that is negative, only the best), `all`, or `last`.
      best: share of each task's episodes, by return, that is used at all; below 1 for
        imitation of the best.
    """

    trajectories: int = 4
    choose: Literal["uniform", "quantiles", "history"] = "uniform"
    order: Literal["ascending", "shuffled"] = "ascending"
    crop_steps: int = 0
    loss_on: LossOn = "good"
    best: float = 1.0

    def __post_init__(self):
        """Checks the ranges."""
        if self.trajectories < 1:
            raise ValueError(
                f"chains: trajectories must be at least 1, found {self.trajectories}"
            )
        if self.choose not in ("uniform", "quantiles", "history"):
            raise ValueError(
                "chains: choose must be uniform, quantiles or history, found "
                f"{self.choose!r}"
            )
        if self.order not in ("ascending", "shuffled"):
            raise ValueError(
                f"chains: order must be ascending or shuffled, found {self.order!r}"
            )
        if self.choose == "history" and self.order == "shuffled":
            raise ValueError(
                "chains: order must be ascending where choose is history, which keeps "
                "to the order of collection, found 'shuffled'"
            )
        if self.crop_steps < 0:
            raise ValueError(
                f"chains: crop_steps must be at least 0, found {self.crop_steps}"
            )
        if not 0 < self.best <= 1:
            raise ValueError(f"chains: best must be in (0, 1], found {self.best}")
        if self.loss_on not in ("good", "all", "last"):
            raise ValueError(
                f"chains: loss_on must be good, all or last, found {self.loss_on!r}"
            )


def group_episodes(store: EpisodeStore, config: ChainConfig) -> Groups:
    """Episodes of each task that chains are made of, in the order `choose` needs.

    Of each task the best share, at least one episode; ascending by index, for
    `quantiles` by return, for `history` in the order of collection.
    """
    groups = []
    for indices in store.by_task().values():
        if config.best < 1:
            order = indices[np.argsort(-store.returns[indices], kind="stable")]
            indices = np.sort(order[: max(1, round(config.best * len(order)))])
        if config.choose != "uniform":
            by_return = config.choose == "quantiles"
            key = store.returns if by_return else store.episode_ids
            indices = indices[np.argsort(key[indices], kind="stable")]
        groups.append(indices)
    return groups


def draw_members(
    groups: Groups, config: ChainConfig, random: np.random.Generator
) -> Int[np.ndarray, " members"]:
    """Indices of a chain's episodes: a task, a number of members, then the members.

    Tasks are equally likely; members are drawn without replacement, since a repeated
    one would teach to copy. `groups` are those of `group_episodes`.
    """
    group = groups[random.integers(len(groups))]
    largest = random.integers(1, config.trajectories, endpoint=True)
    return choose_members(group, min(int(largest), len(group)), config, random)


def choose_members(
    group: Int[np.ndarray, " _"],
    count: int,
    config: ChainConfig,
    random: np.random.Generator,
) -> Int[np.ndarray, " members"]:
    """Indices of `count` episodes of a group, at most all of it, as `choose` has it."""
    if config.choose == "history":
        start = random.integers(len(group) - count, endpoint=True)
        return group[start : start + count]
    if config.choose == "quantiles":
        edges = np.arange(count + 1) * len(group) // count
        members = group[random.integers(edges[:-1], edges[1:])]
    else:
        members = random.choice(group, size=count, replace=False)
    return random.permutation(members) if config.order == "shuffled" else members


def crop(
    store: EpisodeStore,
    episodes: Int[np.ndarray, " members"],
    config: ChainConfig,
    random: np.random.Generator,
) -> tuple[Int[np.ndarray, " members"], Int[np.ndarray, " members"]]:
    """First step and number of steps of the part of each episode that is taken."""
    lengths = store.lengths[episodes]
    if not config.crop_steps:
        return np.zeros_like(lengths), lengths
    steps = np.minimum(lengths, config.crop_steps)
    return random.integers(lengths - steps, endpoint=True), steps


def in_hindsight(
    store: EpisodeStore,
    episodes: Int[np.ndarray, " members"],
    first: Int[np.ndarray, " members"],
    steps: Int[np.ndarray, " members"],
    config: ChainConfig,
    *,
    source: int = 0,
) -> Members:
    """The members of a chain in their order, told in hindsight.

    Sorted by return, ties by index; a history stays as it was collected, a shuffled
    chain as it was drawn. `source` is the number of the store among those of a row.
    """
    if config.choose != "history" and config.order == "ascending":
        order = np.lexsort((episodes, store.returns[episodes]))
        episodes, first, steps = episodes[order], first[order], steps[order]
    returns = store.returns[episodes]
    largest = returns.max()
    return Members(
        store=np.full(len(episodes), source),
        offset=store.offsets[episodes],
        length=store.lengths[episodes],
        first=first,
        steps=steps,
        told=np.full(len(episodes), largest),
        reached=returns >= largest,
        weight=member_weights(returns, config.loss_on),
        chain=np.zeros(len(episodes), np.int64),
    )


def make_chain(
    store: EpisodeStore,
    episodes: Int[np.ndarray, " members"],
    loss_on: LossOn,
) -> Chain:
    """A chain of these whole episodes, sorted and relabelled, as arrays."""
    lengths = store.lengths[episodes]
    config = ChainConfig(loss_on=loss_on)
    members = in_hindsight(store, episodes, np.zeros_like(lengths), lengths, config)
    return Row([store], [members]).chain()


def member_weights(
    returns: Float[np.ndarray, " members"], loss_on: LossOn
) -> Float[np.ndarray, " members"]:
    """Weight in the loss of each member of a chain, given its members' returns."""
    if loss_on == "good":
        largest = returns.max()
        return (returns >= min(largest / 2, largest)).astype(np.float32)
    weights = np.full(len(returns), loss_on == "all", np.float32)
    weights[-1] = 1
    return weights
