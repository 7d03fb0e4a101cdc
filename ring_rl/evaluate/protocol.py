"""The evaluation protocol: the same statistics, side by side, always all of them.

A row is one environment in which a policy acts for n trials within one context:

- `first`: the return of trial 1, before the context says anything about the task;
- `mean`: over all trials; `last`: trial n, after everything that could be learnt;
- `gain`: last - first of the same row; `return_by_trial`: the whole curve;
- `max_of_n`: the largest of a row's n returns. It rewards variance as such, and has
  reversed rankings: literature reports it, so it is given, beside the others only;
- `iqm`: interquartile means of `last` and `mean` over the resampling units.

Under the control `other-task` a row plays its task in the last trial alone, and another
in all before: of its statistics only `last` and the IQM of `last` are of its own task.
`other_task_trials` says how many trials are not; tables and pictures leave them out.

Intervals are 95 % percentile bootstraps, see `ring_rl.evaluate.intervals` for what is
drawn again. Nothing here depends on a clock: the same rollouts give the same result to
the last bit. Times are in `timing`, apart.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ring_rl.evaluate.intervals import (
    Units,
    draw_weights,
    make_units,
    percentile_interval,
)
from ring_rl.evaluate.scores import reference, weighted_iqm
from ring_rl.types import Rollouts

RESAMPLES = 10_000
_BOOTSTRAP_SEED = 0


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What was held fixed; evaluations with equal conditions differ in seeds only.

    Attributes:
      name: of the run or preset; with the rest it tells configurations apart.
      agent: name of the algorithm.
      environment: environment id.
      target_return: undiscounted return that every trial was told to reach.
      target_rule: where that number is from, in words.
      temperature: of the sampled actions; 0 is greedy.
      control: `none`, or what was done to the context, such as `other-task`.
      configuration: digest of all that was trained but the seed.
      demonstrations: `none`, or how many episodes each row read before its first
        trial, and of which dataset.
      recall: order of the earlier trials in a context, `played` or `ascending`.
    """

    name: str
    agent: str
    environment: str
    target_return: float
    target_rule: str
    temperature: float
    control: str = "none"
    configuration: str = ""
    demonstrations: str = "none"
    recall: str = "played"


def summarise(
    rollouts: Sequence[Rollouts],
    conditions: Conditions,
    *,
    seeds: Sequence[int],
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Sums rollouts up as the content of `evaluation.json`.

    Args:
      rollouts: one for each trained seed, with the same number of trials.
      conditions: what was held fixed.
      seeds: the training seeds, one for each of `rollouts`.
      resamples: of the bootstrap.

    Returns:
      A dict of plain Python values. `first`, `mean`, `last`, `max_of_n`, `gain`, each
      of the list `return_by_trial` and both of `iqm` have `value`, `low`, `high`
      (undiscounted returns) and `seeds` (how many); `normalised` has the same in D4RL
      scores, or is None. `other_task_trials` is how many trials a row begins in a
      task that is not its own: 0, or under the control `other-task` all but the last.

    Raises:
      ValueError: there are no rollouts, or they do not belong together.
    """
    check_rollouts(rollouts, seeds)
    trials = rollouts[0].returns.shape[1]
    units = make_units(
        [_features(one.returns) for one in rollouts], [one.tasks for one in rollouts]
    )
    value, low, high = _estimate(units, resamples)

    def statistics(shift: float, scale: float) -> dict[str, Any]:
        """All of them, after `scale * (return - shift)`."""

        def entry(index: int, shift: float = shift) -> dict[str, Any]:
            numbers = {"value": value, "low": low, "high": high}
            scaled = {k: float(scale * (v[index] - shift)) for k, v in numbers.items()}
            return {**scaled, "seeds": len(rollouts)}

        first, mean, last, largest, gain, iqm_mean, iqm_last = range(trials, trials + 7)
        return {
            "first": entry(first),
            "mean": entry(mean),
            "last": entry(last),
            "max_of_n": entry(largest),
            # A difference of returns scales, but does not shift.
            "gain": entry(gain, 0.0),
            "iqm": {"mean": entry(iqm_mean), "last": entry(iqm_last)},
            "return_by_trial": [entry(trial) for trial in range(trials)],
        }

    bounds = reference(conditions.environment)
    normalised = None
    if bounds is not None:
        normalised = statistics(bounds[0], 100.0 / (bounds[1] - bounds[0]))
    return {
        "conditions": dataclasses.asdict(conditions),
        "seeds": [int(seed) for seed in seeds],
        **statistics(0.0, 1.0),
        "normalised": normalised,
        "other_task_trials": trials - 1 if conditions.control == "other-task" else 0,
        **_facts(rollouts),
        "interval": {
            "rule": units.rule,
            "level": 0.95,
            "resamples": resamples,
            "bootstrap_seed": _BOOTSTRAP_SEED,
        },
    }


def timing(rollouts: Sequence[Rollouts], seeds: Sequence[int]) -> dict[str, Any]:
    """What the rollouts cost in time, one entry a training seed.

    `environment_steps_per_second` counts the steps of all rows; `decode_milliseconds`
    is the median time of one acting step for all rows.
    """
    return {
        "seeds": [int(seed) for seed in seeds],
        "environment_steps_per_second": [
            float(one.environment_steps_per_second) for one in rollouts
        ],
        "decode_milliseconds": [float(one.decode_milliseconds) for one in rollouts],
    }


def _features(
    returns: Float[np.ndarray, "rows trials"],
) -> Float[np.ndarray, "rows features"]:
    """Each trial's return, then first, mean, last, largest, and last - first."""
    first, last = returns[:, 0], returns[:, -1]
    further = [first, returns.mean(1), last, returns.max(1), last - first]
    return np.column_stack([returns, *further])


def _estimate(units: Units, resamples: int) -> tuple[np.ndarray, ...]:
    """Value, low and high, each `[features + 2]`: the last two are IQMs."""
    *_, mean, last, _, _ = range(units.values.shape[1])

    def estimate(
        weights: Float[np.ndarray, "block units"],
    ) -> Float[np.ndarray, "block features"]:
        counts = weights * weights.shape[1]
        iqms = [weighted_iqm(units.values[:, i], counts) for i in (mean, last)]
        return np.column_stack([weights @ units.values, *iqms])

    value = estimate(units.base[None])[0]
    drawn = [
        estimate(weights) for weights in draw_weights(units, resamples, _BOOTSTRAP_SEED)
    ]
    return value, *percentile_interval(np.concatenate(drawn))


def _facts(rollouts: Sequence[Rollouts]) -> dict[str, Any]:
    """Counts, episode lengths and ends, and the statistics of each seed."""
    lengths = np.concatenate([one.lengths for one in rollouts])
    terminated = np.concatenate([one.terminated for one in rollouts])
    by_seed: dict[str, list[float]] = {}
    for one in rollouts:
        base = make_units([_features(one.returns)], [one.tasks])
        first, mean, last, largest, gain = (base.base @ base.values)[-5:].tolist()
        for name, number in (
            ("first", first),
            ("mean", mean),
            ("last", last),
            ("max_of_n", largest),
            ("gain", gain),
        ):
            by_seed.setdefault(name, []).append(number)
    rows, trials = lengths.shape
    return {
        "by_seed": by_seed,
        "counts": {
            "seeds": len(rollouts),
            "tasks": len({name for one in rollouts for name in one.tasks}),
            "rollouts": rows,
            "trials": trials,
            "episodes": rows * trials,
        },
        "episode_length": {
            "mean": float(lengths.mean()),
            "min": int(lengths.min()),
            "max": int(lengths.max()),
            "by_trial": lengths.mean(0).tolist(),
        },
        "terminated": {
            "share": float(terminated.mean()),
            "by_trial": terminated.mean(0).tolist(),
        },
    }


def check_rollouts(rollouts: Sequence[Rollouts], seeds: Sequence[int]) -> None:
    """Raises `ValueError` unless the rollouts of these seeds can be summed up."""
    if not rollouts:
        raise ValueError("evaluation: expected the rollouts of at least one seed")
    if len(seeds) != len(rollouts) or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"evaluation: expected {len(rollouts)} different training seeds, one for "
            f"each of the rollouts, found {list(seeds)}"
        )
    trials = rollouts[0].returns.shape[-1:]
    for seed, one in zip(seeds, rollouts, strict=True):
        shape = one.returns.shape
        if shape != (len(one.tasks), *trials) or len(shape) != 2 or 0 in shape:
            raise ValueError(
                "evaluation: expected returns [rows, trials], one task a row, and the "
                f"same number of trials for all seeds, found {shape} and "
                f"{len(one.tasks)} tasks for seed {seed}"
            )
        for name in ("lengths", "terminated"):
            if getattr(one, name).shape != shape:
                raise ValueError(
                    f"evaluation: expected {name} of shape {shape}, like the returns, "
                    f"found {getattr(one, name).shape} for seed {seed}"
                )
        bad = np.argwhere(~np.isfinite(one.returns))
        if len(bad):
            row, trial = (int(i) for i in bad[0])
            raise ValueError(
                f"evaluation: return of seed {seed}, row {row}, trial {trial} is "
                f"{one.returns[row, trial]}; expected finite numbers"
            )
