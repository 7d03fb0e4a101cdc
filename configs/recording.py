"""Collecting data by a behaviour or by an explorer, in an environment by its name."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ring_rl.collect import (
    Behaviour,
    BehaviourCollector,
    Collector,
    MakesEnvironment,
    RndCollector,
    RndConfig,
    collect_dataset,
    describe,
    look,
)
from ring_rl.collect.collectors import PART_STEPS
from ring_rl.envs import make_vector
from ring_rl.types import Spaces, VectorEnvironment

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Place:
    """An environment by its name, and what it is made with.

    Attributes:
      id: as `make_vector` takes it.
      options: likewise, as pairs.
    """

    id: str
    options: tuple[tuple[str, Any], ...] = ()

    def make(self, rows: int, *, seed: int) -> VectorEnvironment:
        """Rows of it."""
        return make_vector(self.id, rows, seed=seed, **dict(self.options))


def collect(
    environment: MakesEnvironment,
    behaviour: Behaviour | Callable[[Spaces], Behaviour],
    *,
    out: Path,
    steps: int | None = None,
    tasks: Sequence[str] = ("",),
    seed: int = 0,
    rows: int = 1,
    part_steps: int = PART_STEPS,
    processes: int = 1,
    exorl: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Collects a dataset by a behaviour; see `ring_rl.collect.collect_dataset`.

    The episodes depend on the environment, the behaviour, the tasks, the seed and the
    rows, not on the number of processes. Of the same collection with more `steps`, they
    are the first.

    Args:
      environment: such as a run's; its `repr` says all that it is made with.
      behaviour: who acts, or what makes it of the environment's spaces; likewise.
      out: folder of the dataset.
      steps: environment steps to collect at least, the episodes going round the tasks;
        None for one episode of each entry of `tasks`, in their order.
      tasks: of the episodes, "" leaving them to the environment.
      seed: of everything.
      rows: environments stepped together in each process: more where the behaviour
        gains by it.
      part_steps: environment steps of a part: what is lost where a collection is ended.
      processes: that collect.
      exorl: also write ExoRL's files, to a folder `buffer` in `out`.
      overwrite: replace the dataset that stands at `out`.
      progress: called with the episodes and environment steps done so far.

    Returns:
      `inspect`'s summary of the dataset.

    Raises:
      ValueError, OSError, KeyboardInterrupt: as `collect_dataset`.
    """
    if not tasks or seed < 0 or rows < 1 or part_steps < 1:
        raise ValueError(
            "collect: expected a task, a seed from 0, a row and a step, found "
            f"{len(tasks)}, {seed}, {rows} and {part_steps}"
        )
    spaces, horizon = look(environment, seed)
    acting = behaviour if isinstance(behaviour, Behaviour) else behaviour(spaces)
    description = describe(
        environment, repr(acting), seed, tasks, cycle=steps is not None
    )
    description |= {"rows": rows, "part_steps": part_steps}
    collector = BehaviourCollector(
        environment, acting, tuple(tasks), steps is not None, seed, rows, spaces,
        horizon, description, part_steps,
    )  # fmt: skip
    return collect_dataset(
        collector, out, steps=steps, processes=processes, exorl=exorl,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip


def explorer(
    place: Place, tasks: tuple[str, ...], seed: int, *, learners: int = 1
) -> Collector:
    """What collects by DDPG on novelty, for `collect_dataset`.

    Args:
      place: where.
      tasks: that the episodes go round, "" leaving them to the environment.
      seed: of everything.
      learners: independent explorers.
    """
    spaces, horizon = look(place, seed)
    config = RndConfig()
    description = describe(place, repr(config), seed, tasks)
    description |= {"learners": learners, "part_steps": PART_STEPS}
    return RndCollector(
        place, config, tasks, seed, learners, spaces, horizon, description
    )
