import json

import numpy as np
import pytest

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.histogram import text_histogram, write_histograms
from ring_rl.data.inspect import inspect
from ring_rl.types import Continuous, Discrete, Spaces


def store_of(episodes, spaces):
    return EpisodeStore.from_episodes(episodes, spaces)


def test_summary_is_json_with_the_promised_keys(make_episode, spaces):
    rewards = [np.full(4, value, np.float32) for value in (0, 1, 2, 3, 4)]
    episodes = [
        make_episode(4, seed=seed, rewards=values, task=f"task {seed % 2}")
        for seed, values in enumerate(rewards)
    ]
    summary = inspect(store_of(episodes, spaces))
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["steps"], summary["episodes"]) == (20, 5)
    assert summary["return_quantiles"] == pytest.approx(
        {"min": 0, "5%": 0.8, "25%": 4, "50%": 8, "75%": 12, "95%": 15.2, "max": 16}
    )
    assert set(summary["length_quantiles"].values()) == {4.0}
    assert summary["tasks"] == {"task 0": 3, "task 1": 2}
    assert summary["task_count"] == 2
    assert summary["anomalies"] == []
    assert summary["spaces"] == {
        "observation": 3,
        "action": {
            "kind": "continuous",
            "size": 2,
            "low": [-1.0, -1.0],
            "high": [1.0, 1.0],
        },
    }


def test_tasks_are_capped(make_episode, spaces):
    episodes = [make_episode(2, seed=seed, task=f"goal {seed}") for seed in range(60)]
    summary = inspect(store_of([*episodes, episodes[7]], spaces))
    assert len(summary["tasks"]) == 50
    assert summary["task_count"] == 60
    assert next(iter(summary["tasks"].items())) == ("goal 7", 2)
    assert "1 episode ids more than once, the first 7" in summary["anomalies"]


def test_actions_are_compared_with_bounds_in_their_own_precision(make_episode):
    spaces = Spaces(3, Continuous((-0.1, -0.1), (0.1, 0.1)))
    actions = np.full((4, 2), 0.1, np.float32)  # as float64 more than 0.1
    at_bounds = make_episode(4, actions=actions)
    assert inspect(store_of([at_bounds], spaces))["anomalies"] == [
        "the last episode, of 4 steps, was probably cut by the end of the recording"
    ]
    beyond = actions.copy()
    beyond[2, 1] = -0.35
    found = inspect(store_of([make_episode(4, actions=beyond)], spaces))["anomalies"]
    assert found[0] == "actions beyond their bounds at 1 of 4 steps, by 0.25 at most"


def test_what_is_odd_is_said(make_episode, spaces):
    odd = make_episode(
        4,
        seed=1,
        rewards=np.full(4, 0.5, np.float32),
        final_observation=np.zeros(3, np.float32),
        has_final_observation=False,
        terminated=False,
        truncated=False,
        extras={"infos/qpos": np.full((4, 4), np.nan)},
    )
    odd.observations[:, 1] = 3
    assert inspect(store_of([odd], spaces))["anomalies"] == [
        "final observation unknown in 1 of 1 episodes",
        "1 episodes neither terminated nor truncated",
        "the reward is 0.5 at every step",
        "observation columns that never change: 1",
        "infos/qpos: 16 numbers are not finite",
    ]


def test_a_short_last_episode_is_told_from_a_time_limit(make_episode, spaces):
    """Seeds: even ones are truncated, odd ones terminated."""

    def cut(*lengths_and_seeds):
        episodes = [make_episode(steps, seed=seed) for steps, seed in lengths_and_seeds]
        return any(
            "cut by the end" in line
            for line in inspect(store_of(episodes, spaces))["anomalies"]
        )

    assert cut((9, 0), (4, 1), (9, 2), (5, 4))
    assert not cut((9, 0), (4, 1), (9, 2))  # the limit itself
    assert not cut((9, 0), (5, 1))  # terminated
    assert not cut((9, 0), (7, 2), (5, 4))  # cut at any length


def test_discrete_actions_have_no_bounds(make_episode):
    spaces = Spaces(3, Discrete(4))
    summary = inspect(store_of([make_episode(4, seed=1, spaces=spaces)], spaces))
    assert summary["spaces"]["action"] == {"kind": "discrete", "size": 4}
    assert summary["anomalies"] == []


def test_histogram_is_text():
    lines = text_histogram(np.array([0.0, 0.0, 0.0, 1.0, 4.0]), bins=4, width=6)
    assert lines.splitlines() == [
        "0 to 1  3  ######",
        "1 to 2  1  ##",
        "2 to 3  0",
        "3 to 4  1  ##",
    ]
    assert text_histogram(np.array([5.0])).count("\n") == 9


def test_the_picture_is_a_png_of_both_distributions(make_episode, spaces, tmp_path):
    store = store_of([make_episode(4, seed=seed) for seed in range(5)], spaces)
    path = tmp_path / "returns.png"
    write_histograms(path, store, title="made")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match="place to write a picture"):
        write_histograms(tmp_path / "absent" / "x.png", store, title="made")


def test_returns_that_differ_by_rounding_are_one_bin():
    returns = np.array([1000.0, np.nextafter(1000.0, 2000.0)])
    lines = text_histogram(returns, bins=3).splitlines()
    assert [line.split()[3] for line in lines] == ["0", "2", "0"]
