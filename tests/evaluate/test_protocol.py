import dataclasses
import json

import numpy as np
import pytest

from ring_rl.evaluate.intervals import MANY_TASKS, draw_weights, make_units
from ring_rl.evaluate.protocol import Conditions, summarise, timing
from ring_rl.types import Rollouts

CONDITIONS = Conditions(
    name="dark_room",
    agent="agentic_transformer",
    environment="ring_rl/DarkRoom-v0",
    target_return=12.0,
    target_rule="90th percentile of the data",
    temperature=1.0,
)


def rollouts(returns, tasks=None):
    returns = np.asarray(returns, np.float64)
    return Rollouts(
        returns=returns,
        lengths=np.full(returns.shape, 20, np.int64),
        terminated=np.zeros(returns.shape, np.bool_),
        tasks=tuple(tasks or ["one"] * len(returns)),
        environment_steps_per_second=1000.0,
        decode_milliseconds=2.0,
    )


def width(entry):
    return entry["high"] - entry["low"]


def test_statistics_by_hand():
    result = summarise([rollouts([[1, 5, 3], [2, 0, 4]])], CONDITIONS, seeds=[7])
    assert result["first"]["value"] == 1.5
    assert result["mean"]["value"] == 2.5
    assert result["last"]["value"] == 3.5
    assert result["max_of_n"]["value"] == 4.5
    assert result["gain"]["value"] == 2.0
    assert [e["value"] for e in result["return_by_trial"]] == [1.5, 2.5, 3.5]
    assert result["seeds"] == [7]
    assert result["counts"] == {
        "seeds": 1,
        "tasks": 1,
        "rollouts": 2,
        "trials": 3,
        "episodes": 6,
    }
    assert result["normalised"] is None


def test_trials_in_another_task_are_counted():
    control = dataclasses.replace(CONDITIONS, control="other-task")
    found = [
        summarise([rollouts(returns)], conditions, seeds=[0])["other_task_trials"]
        for conditions in (CONDITIONS, control)
        for returns in ([[1, 5, 3], [2, 0, 4]], [[1], [2]])
    ]
    # In a single trial the other task was in demonstrations alone.
    assert found == [0, 0, 2, 0]


def test_first_and_last_are_the_ends_of_the_curve_with_their_intervals():
    returns = np.random.default_rng(0).normal(size=(30, 5))
    result = summarise([rollouts(returns)], CONDITIONS, seeds=[0])
    assert result["first"] == pytest.approx(result["return_by_trial"][0])
    assert result["last"] == pytest.approx(result["return_by_trial"][-1])


def test_with_one_trial_all_statistics_are_the_same():
    returns = np.random.default_rng(0).normal(size=(30, 1))
    result = summarise([rollouts(returns)], CONDITIONS, seeds=[0])
    for name in ("mean", "last", "max_of_n"):
        assert result[name] == pytest.approx(result["first"])
    gain = result["gain"]
    assert (gain["value"], gain["low"], gain["high"]) == (0.0, 0.0, 0.0)


def test_max_of_n_is_a_mean_of_row_maxima_and_rewards_variance_alone():
    generator = np.random.default_rng(0)
    steady, wild = (generator.normal(5, spread, (200, 8)) for spread in (0.1, 3.0))
    a, b = (summarise([rollouts(r)], CONDITIONS, seeds=[0]) for r in (steady, wild))
    assert b["max_of_n"]["value"] == pytest.approx(wild.max(axis=1).mean())
    assert a["mean"]["value"] == pytest.approx(b["mean"]["value"], abs=0.2)
    assert b["max_of_n"]["low"] > a["max_of_n"]["high"] + 3


def test_interval_of_many_episodes_has_the_width_of_the_standard_error():
    returns = np.random.default_rng(0).normal(10, 2, (1000, 2))
    result = summarise([rollouts(returns)], CONDITIONS, seeds=[0])
    error = returns[:, 0].std() / np.sqrt(len(returns))
    # 10,000 resamples fix a 2.5 % quantile to about 2 % of its distance; 5 % is ample.
    assert width(result["first"]) == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_rows_of_a_task_are_not_independent():
    effect = np.random.default_rng(0).normal(0, 3, (50, 1))
    tasks = [str(i) for i in range(50)]
    once = summarise([rollouts(effect, tasks)], CONDITIONS, seeds=[0])
    # Ten rows a task that say the same thing say it once.
    ten = rollouts(np.repeat(effect, 10, axis=0), np.repeat(tasks, 10).tolist())
    repeated = summarise([ten], CONDITIONS, seeds=[0])
    assert repeated["mean"] == pytest.approx(once["mean"])
    error = effect.std() / np.sqrt(50)
    assert width(once["mean"]) == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_a_task_that_is_easy_for_every_seed_is_drawn_for_every_seed():
    effect = np.random.default_rng(0).normal(0, 3, (50, 1))
    tasks = [str(i) for i in range(50)]
    one = summarise([rollouts(effect, tasks)], CONDITIONS, seeds=[0])
    five = summarise([rollouts(effect, tasks)] * 5, CONDITIONS, seeds=range(5))
    # More seeds on the same tasks do not tell more about other tasks.
    assert width(five["mean"]) == pytest.approx(width(one["mean"]), rel=0.05)
    assert "same draw for all seeds" in five["interval"]["rule"]
    other = [rollouts(effect, [f"{s}{t}" for t in tasks]) for s in range(5)]
    apart = summarise(other, CONDITIONS, seeds=range(5))
    assert width(apart["mean"]) == pytest.approx(width(one["mean"]) / 5**0.5, rel=0.1)


def test_spread_between_seeds_widens_the_interval():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(5, 50, 1))
    shifts = np.asarray([-4, -2, 0, 2, 4])[:, None, None]
    same = summarise([rollouts(r) for r in noise], CONDITIONS, seeds=range(5))
    apart = [rollouts(r) for r in noise + shifts]
    result = summarise(apart, CONDITIONS, seeds=range(5))
    # The five seeds' standard deviation is 8 ** 0.5.
    assert width(result["mean"]) == pytest.approx(2 * 1.96 * (8 / 5) ** 0.5, rel=0.1)
    assert width(same["mean"]) < 0.5
    assert result["by_seed"]["mean"] == pytest.approx([-4, -2, 0, 2, 4], abs=0.5)
    assert result["mean"]["seeds"] == 5


def test_few_tasks_are_strata():
    generator = np.random.default_rng(0)
    returns = np.repeat([0.0, 100.0, 200.0], 40)[:, None] + generator.normal(
        size=(120, 1)
    )
    tasks = np.repeat(["stand", "walk", "run"], 40).tolist()
    result = summarise([rollouts(returns, tasks)], CONDITIONS, seeds=[0])
    # The differences between named tasks are no uncertainty.
    assert width(result["mean"]) == pytest.approx(2 * 1.96 / 120**0.5, rel=0.15)


def test_tasks_weigh_the_same_however_many_rows_they_have():
    returns = [[0.0]] * 30 + [[9.0]] * 10
    tasks = ["a"] * 30 + ["b"] * 10
    result = summarise([rollouts(returns, tasks)], CONDITIONS, seeds=[0])
    assert result["mean"]["value"] == pytest.approx(4.5)
    assert result["mean"]["low"] == pytest.approx(4.5)


def test_gain_is_paired():
    level = np.random.default_rng(0).normal(0, 10, (200, 1))
    result = summarise([rollouts(level + [0.0, 1.0])], CONDITIONS, seeds=[0])
    assert width(result["last"]) > 2
    assert width(result["gain"]) < 1e-9
    assert result["gain"]["value"] == pytest.approx(1.0)


@pytest.mark.parametrize("task_count", [1, 3, MANY_TASKS])
@pytest.mark.parametrize("seed_count", [1, 3])
def test_weights_of_a_resample_add_up_to_one(task_count, seed_count):
    tasks = [str(i % task_count) for i in range(2 * MANY_TASKS + 1)]
    values = [np.ones((len(tasks), 1))] * seed_count
    units = make_units(values, [tasks] * seed_count)
    weights = np.concatenate(list(draw_weights(units, 500, 0)))
    assert weights.shape == (500, len(units.seeds))
    assert weights.sum(axis=1) == pytest.approx(np.ones(500))
    # On average a unit has the weight that it has in the estimate.
    assert weights.mean(axis=0) == pytest.approx(units.base, rel=0.5)
    assert units.base.sum() == pytest.approx(1.0)


def test_d4rl_scores_are_given_where_there_is_a_reference():
    returns = np.random.default_rng(0).normal(1500, 100, (20, 2))
    conditions = dataclasses.replace(CONDITIONS, environment="Hopper-v5")
    result = summarise([rollouts(returns)], conditions, seeds=[0])
    span = 3234.3 + 20.272305
    for name in ("first", "mean", "last", "max_of_n"):
        for bound in ("value", "low", "high"):
            score = 100 * (result[name][bound] + 20.272305) / span
            assert result["normalised"][name][bound] == pytest.approx(score)
    gain = 100 * result["gain"]["value"] / span
    assert result["normalised"]["gain"]["value"] == pytest.approx(gain)


def test_a_single_row_claims_no_interval():
    result = summarise([rollouts([[1.0, 2.0]])], CONDITIONS, seeds=[0])
    assert result["interval"]["rule"].startswith("none")


def test_two_runs_give_the_same_json_whatever_the_clock_said():
    returns = np.random.default_rng(0).normal(size=(16, 4))
    one = rollouts(returns)
    other = one._replace(environment_steps_per_second=3.0, decode_milliseconds=9.0)
    texts = [
        json.dumps(summarise([r], CONDITIONS, seeds=[0]), allow_nan=False)
        for r in (one, other)
    ]
    assert texts[0] == texts[1]
    assert timing([one], [0]) != timing([other], [0])


@pytest.mark.parametrize(
    ("given", "seeds", "message"),
    [
        ([], [], "at least one seed"),
        ([rollouts([[1.0]])], [0, 1], "found \\[0, 1\\]"),
        ([rollouts([[1.0]])] * 2, [3, 3], "different training seeds"),
        ([rollouts([[1.0]]), rollouts([[1.0, 2.0]])], [0, 1], "for seed 1"),
        ([rollouts([[1.0], [float("nan")]])], [4], "seed 4, row 1, trial 0 is nan"),
        ([rollouts([[1.0]], ["a", "b"])], [0], "2 tasks for seed 0"),
        (
            [rollouts([[1.0]])._replace(lengths=np.ones((2, 1), np.int64))],
            [0],
            "lengths of shape",
        ),
    ],
)
def test_rollouts_that_do_not_belong_together_are_refused(given, seeds, message):
    with pytest.raises(ValueError, match=message):
        summarise(given, CONDITIONS, seeds=seeds)
