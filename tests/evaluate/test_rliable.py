"""Averages and intervals are those of the package `rliable`."""

import numpy as np
import pytest

from ring_rl.evaluate.protocol import Conditions, summarise
from ring_rl.evaluate.scores import iqm
from ring_rl.types import Rollouts

metrics = pytest.importorskip("rliable.metrics")
library = pytest.importorskip("rliable.library")

RESAMPLES = 50_000
RUNS, TASKS = 12, 5  # fewer tasks than are drawn again, and several rows of each


def scores(seed: int = 0) -> np.ndarray:
    """`[runs tasks]`: runs differ, tasks differ more, and the tails are long."""
    random = np.random.default_rng(seed)
    level = random.normal(0, 5, TASKS)
    return level + random.standard_t(3, (RUNS, TASKS))


@pytest.mark.parametrize(("runs", "tasks"), [(1, 1), (3, 1), (5, 3), (12, 5), (10, 7)])
def test_the_interquartile_mean_is_theirs(runs, tasks):
    values = np.random.default_rng(runs).normal(size=(runs, tasks)) ** 3
    assert float(iqm(values.ravel())) == pytest.approx(
        metrics.aggregate_iqm(values), rel=1e-12, abs=1e-12
    )


# Of the package that rliable draws with.
@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")
def test_values_and_intervals_are_theirs():
    """One training seed whose rows are the runs of rliable.

    Few tasks are strata, and rows are drawn again within each, apart from the other
    tasks: that is rliable's stratified bootstrap. With more seeds, or many tasks, ours
    draws these again as well, which rliable does not.
    """
    values = scores()
    returns = values.T.reshape(-1, 1)
    rollouts = Rollouts(
        returns=returns,
        lengths=np.ones(returns.shape, np.int64),
        terminated=np.zeros(returns.shape, bool),
        tasks=tuple(f"task {task}" for task in range(TASKS) for _ in range(RUNS)),
        environment_steps_per_second=1.0,
        decode_milliseconds=1.0,
    )
    conditions = Conditions("run", "agent", "environment", 0.0, "given", 1.0)
    ours = summarise([rollouts], conditions, seeds=[0], resamples=RESAMPLES)
    for name, entry, average in (
        ("iqm", ours["iqm"]["last"], metrics.aggregate_iqm),
        ("mean", ours["mean"], metrics.aggregate_mean),
    ):
        assert entry["value"] == pytest.approx(average(values), rel=1e-12, abs=1e-12)
        drawn = resampled(values, average)
        low, high = np.percentile(drawn, [2.5, 97.5])
        for found, expected, level in (
            (entry["low"], low, 0.025),
            (entry["high"], high, 0.975),
        ):
            error = monte_carlo_error(drawn, level)
            # Both ends are drawn, so their difference has the error of two.
            assert abs(found - expected) < 3 * np.sqrt(2) * error, (name, level)


def resampled(values: np.ndarray, average) -> np.ndarray:
    """Averages of rliable's resamples, which its interval's ends are percentiles of."""
    random = np.random.RandomState(0)
    bootstrap = library.StratifiedBootstrap(values, random_state=random)
    return bootstrap.apply(lambda x: np.array([average(x)]), reps=RESAMPLES)[:, 0]


def monte_carlo_error(drawn: np.ndarray, level: float) -> float:
    """Standard error of a percentile of so many independent draws.

    The square root of p (1 - p) / n over the density there, from percentiles near by.
    """
    low, high = np.quantile(drawn, [level - 0.01, level + 0.01])
    density = 0.02 / (high - low)
    return float(np.sqrt(level * (1 - level) / len(drawn)) / density)
