"""The same episodes with another task: rewards computed anew, and the task's name.

Rewards are computed episode by episode, in several processes, and kept in a cache by
what they are computed from: a run that was killed goes on where it was, and a second
one only reads.
"""

import collections
import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from ring_rl.data.inspect import inspect
from ring_rl.data.provenance import add_to_manifest
from ring_rl.data.resets import copy_resets
from ring_rl.data.reward_cache import RewardCache, cache_key
from ring_rl.data.rlds import DATASET_MARKER, open_rlds, write_rlds_files
from ring_rl.data.staging import staged_directory
from ring_rl.data.store import open_store
from ring_rl.data.workers import make_executor
from ring_rl.types import Episode

_AHEAD = 4  # episodes that each process has waiting: bounds the memory


@runtime_checkable
class Relabelling(Protocol):
    """What gives an episode a task. Picklable, since it is sent to processes."""

    def identity(self) -> str:
        """All that the rewards depend on beside the inputs: parameters, versions."""
        ...

    def task(self, episode: Episode) -> str:
        """The episode's new task."""
        ...

    def inputs(self, episode: Episode) -> tuple[np.ndarray, ...]:
        """What the rewards are computed from.

        Raises:
          ValueError: the episode does not have it; the message says which field.
        """
        ...

    def rewards(self, *inputs: np.ndarray) -> np.ndarray:
        """Rewards `[steps]`.

        Raises:
          ValueError: they cannot be computed from these inputs.
        """
        ...


def relabel(
    source: Path,
    directory: Path,
    relabelling: Relabelling,
    *,
    processes: int = 1,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Writes an RLDS dataset anew with another task; returns `inspect`'s summary of it.

    Everything but rewards, returns and task stays as it is. After any failure
    `directory` is as it was before; what is in the cache stays there.

    Args:
      source: an RLDS dataset.
      directory: a new directory, an empty one, or, to overwrite, a dataset's.
      relabelling: the task, and what its rewards are.
      processes: that compute rewards; 1 is this one.
      cache: folder for computed rewards; None keeps none.
      overwrite: replace the dataset that stands at `directory`.
      progress: called with the episodes and environment steps done so far.

    Raises:
      ValueError: one line saying what was expected and found, for a bad source, an
        episode that the task does not fit, or a `directory` that is taken.
    """
    spaces, episodes = open_rlds(source)
    with (
        make_executor(processes) as executor,
        staged_directory(
            Path(directory), overwrite=overwrite, marker=DATASET_MARKER
        ) as staging,
        contextlib.closing(
            relabel_episodes(
                episodes,
                relabelling,
                executor=executor,
                ahead=_AHEAD * processes,
                cache=None if cache is None else RewardCache(Path(cache)),
            )
        ) as relabelled,
    ):
        try:
            write_rlds_files(
                _reported(relabelled, progress),
                spaces,
                staging,
                name=Path(directory).name,
                source=f"{Path(source).name}, {relabelling.identity()}",
                reader="relabel",
            )
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
        add_to_manifest(staging, copy_resets(Path(source), staging))
        return inspect(open_store(staging))


class _Waiting(NamedTuple):
    """An episode whose rewards are there, or on their way."""

    number: int
    episode: Episode
    key: str
    rewards: Float32[np.ndarray, " steps"] | Future


def relabel_episodes(
    episodes: Iterable[Episode],
    relabelling: Relabelling,
    *,
    executor: Executor | None = None,
    ahead: int = 1,
    cache: RewardCache | None = None,
) -> Generator[Episode, None, None]:
    """The episodes in their order, with the task and its rewards.

    Args:
      episodes: read `ahead` of what is passed on.
      relabelling: the task, and what its rewards are.
      executor: what computes rewards; None computes them here.
      ahead: episodes that may be computed at once.
      cache: looked in first; None looks nowhere.

    Raises:
      ValueError: naming the episode's index, at one that the task does not fit.
    """
    executor = executor or make_executor(1)
    identity = relabelling.identity()
    waiting: collections.deque[_Waiting] = collections.deque()
    for index, episode in enumerate(episodes):
        try:
            inputs = relabelling.inputs(episode)
            task = relabelling.task(episode)
        except ValueError as error:
            raise ValueError(f"episode {index}, {error}") from error
        key = cache_key(identity, inputs) if cache else ""
        found = cache.read(key, len(episode.rewards)) if cache else None
        if found is None:
            found = executor.submit(relabelling.rewards, *inputs)
        waiting.append(_Waiting(index, episode._replace(task=task), key, found))
        if len(waiting) >= ahead:
            yield _finish(waiting.popleft(), cache)
    while waiting:
        yield _finish(waiting.popleft(), cache)


def _finish(waiting: _Waiting, cache: RewardCache | None) -> Episode:
    """Waits for an episode's rewards, checks and keeps them."""
    rewards, episode = waiting.rewards, waiting.episode
    if isinstance(rewards, Future):
        try:
            rewards = np.asarray(rewards.result(), np.float32)
        except ValueError as error:
            raise ValueError(f"episode {waiting.number}, {error}") from error
        steps = len(episode.rewards)
        if rewards.shape != (steps,) or not np.isfinite(rewards).all():
            raise ValueError(
                f"episode {waiting.number}, rewards: expected {steps} finite numbers, "
                f"found {rewards}"
            )
        if cache is not None:
            cache.write(waiting.key, rewards)
    return episode._replace(rewards=rewards)


def _reported(
    episodes: Iterable[Episode], progress: Callable[[int, int], None] | None
) -> Iterator[Episode]:
    """Passes episodes on and tells `progress` of them."""
    steps = 0
    for index, episode in enumerate(episodes):
        yield episode
        steps += len(episode.rewards)
        if progress is not None:
            progress(index + 1, steps)
