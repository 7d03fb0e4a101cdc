"""Who makes the parts of a collection: the contract, and parts by a behaviour."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ring_rl.collect.recorder import Behaviour, Recorded, record_with_resets
from ring_rl.types import Spaces, VectorEnvironment

# Environment steps of a part: what is lost at most where a collection is ended, and
# long beside making an environment (a few tenths of a second).
PART_STEPS = 20_000

Episodes = Generator[Recorded, None, dict[str, np.ndarray]]


@runtime_checkable
class MakesEnvironment(Protocol):
    """Where data is collected. Picklable, since it is sent to processes."""

    def make(self, rows: int, *, seed: int) -> VectorEnvironment:
        """Rows of it, stepped together."""
        ...


@runtime_checkable
class Collector(Protocol):
    """What makes the parts of a collection. Picklable, since it is sent to processes.

    Attributes:
      spaces: of the episodes.
      description: all that the episodes depend on, as JSON has it: at least
        `environment`, `policy`, `seed` and `task`, the name of the task of episodes for
        which the environment has none.
      parts: how many there are; None for as many as are asked for.
      least: environment steps that a part has at least.
      after: part k is made after part k - `after`, from its state; 0: at any time.
      apart: whether parts are made in other processes in any case.
    """

    @property
    def spaces(self) -> Spaces: ...  # noqa: D102
    @property
    def description(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def parts(self) -> int | None: ...  # noqa: D102
    @property
    def least(self) -> int: ...  # noqa: D102
    @property
    def after(self) -> int: ...  # noqa: D102
    @property
    def apart(self) -> bool: ...  # noqa: D102

    def part(self, number: int, folder: Path) -> Episodes:
        """Yields the episodes of a part; returns what a later one goes on from.

        Args:
          number: of the part, from 0.
          folder: of the parts that were made before.
        """
        ...


def part_seed(seed: int, part: int, use: int) -> int:
    """A seed for one use in one part."""
    return int(np.random.SeedSequence((seed, part, use)).generate_state(1)[0])


def look(environment: MakesEnvironment, seed: int) -> tuple[Spaces, int]:
    """Spaces of an environment, and most steps of an episode."""
    rows = environment.make(1, seed=seed)
    rows.close()
    return rows.spaces, rows.max_episode_steps


def describe(
    environment: MakesEnvironment,
    policy: str,
    seed: int,
    tasks: Sequence[str],
    *,
    cycle: bool = True,
) -> dict[str, Any]:
    """The description of a collector, but for what is its own."""
    name = getattr(environment, "id", type(environment).__name__)
    about = {
        "environment": repr(environment),
        "task": name.split("/")[-1],
        "policy": policy,
        "seed": seed,
        "tasks": list(dict.fromkeys(tasks)),
    }
    if not cycle or len(about["tasks"]) < len(tasks):
        digest = hashlib.sha256("\n".join(tasks).encode()).hexdigest()
        about["episodes"] = f"{len(tasks)} tasks, sha256 {digest}"
    return about


@dataclasses.dataclass(frozen=True)
class BehaviourCollector:
    """Parts that stand alone, by a behaviour.

    With `cycle`, part k begins at entry k * n of the tasks and goes round and round
    until it has `part_steps` steps, n being the episodes of full length in as many;
    else it is the episodes of n entries.

    Attributes:
      environment: where.
      behaviour: who acts.
      tasks: of the episodes, "" leaving them to the environment.
      cycle: whether the tasks are gone through again and again.
      seed: of everything.
      rows: environments stepped together.
      spaces: of the environment.
      horizon: most steps of an episode.
      description: as `Collector` has it.
      part_steps: environment steps of a part.
    """

    environment: MakesEnvironment
    behaviour: Behaviour
    tasks: tuple[str, ...]
    cycle: bool
    seed: int
    rows: int
    spaces: Spaces
    horizon: int
    description: dict[str, Any]
    part_steps: int = PART_STEPS

    after, apart = 0, False

    @property
    def parts(self) -> int | None:
        """As many as the tasks fill, or any number."""
        return None if self.cycle else -(-len(self.tasks) // self._entries)

    @property
    def least(self) -> int:
        """Steps of a part at least."""
        return self.part_steps if self.cycle else 1

    @property
    def _entries(self) -> int:
        return max(1, self.part_steps // self.horizon)

    def part(self, number: int, folder: Path) -> Episodes:
        """The episodes of a part."""
        del folder
        first, steps = number * self._entries, 0

        def cycled() -> Iterator[str]:
            index = first
            while steps < self.part_steps:
                yield self.tasks[index % len(self.tasks)]
                index += 1

        tasks = cycled() if self.cycle else self.tasks[first : first + self._entries]
        rows = self.environment.make(self.rows, seed=part_seed(self.seed, number, 0))
        with contextlib.closing(rows):
            for recorded in record_with_resets(
                rows, self.behaviour, tasks=tasks, seed=part_seed(self.seed, number, 1)
            ):
                steps += len(recorded.episode.rewards)
                yield recorded
        return {}
