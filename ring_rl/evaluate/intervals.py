"""Bootstrap intervals over training seeds, tasks and episodes.

**The rule.** What is drawn again is what a repetition of the experiment would draw
again; everything else stays as it is.

- *Training seeds* are drawn with replacement whenever there are several. With one seed
  the interval covers the evaluation only, not another training run.
- *Tasks* are drawn with replacement when there are many (`MANY_TASKS`), or when a task
  was rolled out only once, so that nothing below it can be drawn: they stand for all
  tasks of their kind. Rows of one task are averaged first. Where all seeds have the
  same tasks, one draw of tasks serves all seeds (seeds crossed with tasks), for an
  unusually easy task is easy for all of them; otherwise each drawn seed draws anew.
- *Rows* (the episodes of one environment) are drawn with replacement, separately within
  each task of each drawn seed, when there is a single task, or few: few tasks are
  named, they do not stand for others, and are strata.

Each seed weighs the same, in a seed each task, and in a task each row. A resample keeps
all the numbers of a row together, so differences between statistics are paired.

Source: percentile bootstrap, Efron and Tibshirani 1993; strata, Agarwal et al. 2021,
arXiv 2108.13264; crossed factors, Owen 2007, arXiv 0712.1111.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

MANY_TASKS = 8

# Weights are drawn in blocks of at most this many numbers, to bound the memory.
_BLOCK = 2_000_000


@dataclasses.dataclass(frozen=True)
class Units:
    """What is resampled: rows, or tasks with their rows averaged.

    Attributes:
      values: `[units features]` float64; column f is one number of every unit.
      seeds: `[units]`, 0 ... number of seeds - 1, ascending.
      strata: `[units]`, 0 ...: the unit's task where rows are resampled within tasks,
        where tasks are crossed with seeds the task's number, else 0.
      kind: `rows`, `tasks_within_seeds` or `seeds_crossed_with_tasks`.
      seed_count: number of training seeds.
    """

    values: Float[np.ndarray, "units features"]
    seeds: Int[np.ndarray, " units"]
    strata: Int[np.ndarray, " units"]
    kind: str
    seed_count: int

    @property
    def rule(self) -> str:
        """What is drawn again, in words."""
        if len(self.seeds) == 1:
            return "none: a single row of a single seed says nothing about the spread"
        drawn = {
            "rows": "rows (environments) within each task",
            "tasks_within_seeds": "tasks (rows of a task averaged)",
            "seeds_crossed_with_tasks": (
                "tasks (rows of a task averaged), the same draw for all seeds"
            ),
        }[self.kind]
        seeds = (
            f"the {self.seed_count} training seeds, and"
            if self.seed_count > 1
            else "one training seed kept;"
        )
        return f"95% percentile bootstrap; drawn with replacement: {seeds} {drawn}"

    @property
    def base(self) -> Float[np.ndarray, " units"]:
        """`[units]`: each unit's weight in the estimate, adding up to 1."""
        if self.kind == "seeds_crossed_with_tasks":
            return np.full(len(self.seeds), 1.0 / len(self.seeds))
        weight = np.empty(len(self.seeds))
        for seed in range(self.seed_count):
            inside = self.seeds == seed
            strata, counts = np.unique(self.strata[inside], return_counts=True)
            share = 1.0 / (self.seed_count * len(strata) * counts)
            weight[inside] = share[np.searchsorted(strata, self.strata[inside])]
        return weight


def make_units(
    values: Sequence[Float[np.ndarray, "rows features"]],
    tasks: Sequence[Sequence[str]],
) -> Units:
    """Applies the rule above.

    Args:
      values: for each training seed `[rows features]`; rows may differ in number.
      tasks: for each training seed one task name a row.
    """
    names = sorted({name for seed in tasks for name in seed})
    numbers = [np.asarray([names.index(name) for name in seed]) for seed in tasks]
    rows_per_task = [np.bincount(seed, minlength=len(names)) for seed in numbers]
    fewest = min(int(counts[counts > 0].min()) for counts in rows_per_task)
    resample_tasks = len(names) >= MANY_TASKS or (len(names) > 1 and fewest == 1)
    if not resample_tasks:
        return Units(
            values=np.concatenate(values).astype(np.float64),
            seeds=np.repeat(np.arange(len(values)), [len(seed) for seed in values]),
            strata=np.concatenate(numbers),
            kind="rows",
            seed_count=len(values),
        )
    means, seeds, strata = [], [], []
    for seed, (rows, number) in enumerate(zip(values, numbers, strict=True)):
        present = np.unique(number)
        means += [np.mean(rows[number == task], axis=0) for task in present]
        seeds += [seed] * len(present)
        strata += present.tolist()
    crossed = len(values) > 1 and all(bool((n > 0).all()) for n in rows_per_task)
    return Units(
        values=np.stack(means).astype(np.float64),
        seeds=np.asarray(seeds),
        strata=np.asarray(strata) if crossed else np.zeros(len(strata), np.int64),
        kind="seeds_crossed_with_tasks" if crossed else "tasks_within_seeds",
        seed_count=len(values),
    )


def draw_weights(
    units: Units, resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "block units"]]:
    """Draws the weights of the units in each resample, in blocks.

    A weight of 0 leaves a unit out. Each row adds up to 1.

    Args:
      units: what to resample.
      resamples: how many resamples in all.
      seed: of the random draws; the same seed gives the same weights.
    """
    generator = np.random.default_rng(seed)
    base = units.base
    block = max(1, _BLOCK // len(base))
    for start in range(0, resamples, block):
        yield base * _draw_block(units, min(block, resamples - start), generator)


def _draw_block(
    units: Units, size: int, generator: np.random.Generator
) -> Float[np.ndarray, "block units"]:
    """How often each unit is drawn, over how often it is drawn on average."""
    seed_draws = _draw(units.seed_count, units.seed_count, size, generator)
    if units.kind == "seeds_crossed_with_tasks":
        task_count = int(units.strata.max()) + 1
        task_draws = _draw(task_count, task_count, size, generator)
        return (seed_draws[:, units.seeds] * task_draws[:, units.strata]).astype(float)
    counts = np.zeros((size, len(units.seeds)))
    for seed in range(units.seed_count):
        for stratum in np.unique(units.strata[units.seeds == seed]):
            inside = np.flatnonzero((units.seeds == seed) & (units.strata == stratum))
            # A seed drawn k times draws its rows k times over.
            draws = seed_draws[:, seed] * len(inside)
            counts[:, inside] = _draw(draws, len(inside), size, generator)
    return counts


def _draw(
    draws: int | Int[np.ndarray, " block"],
    kinds: int,
    size: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, "block kinds"]:
    return generator.multinomial(draws, np.full(kinds, 1.0 / kinds), size=size)


def percentile_interval(
    estimates: Float[np.ndarray, "resamples *shape"],
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """The 2.5th and 97.5th percentile over the resamples."""
    low, high = np.percentile(estimates, [2.5, 97.5], axis=0)
    return np.asarray(low), np.asarray(high)
