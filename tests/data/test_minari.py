"""Datasets written by the Minari library itself, and damaged by hand."""

import json
import warnings

import gymnasium as gym
import h5py
import numpy as np
import pytest

from ring_rl.data.formats.minari import open_minari
from ring_rl.types import Continuous, Discrete, Spaces

LENGTHS = (4, 1, 6)


class Recorded(gym.Env):
    """Episodes of given lengths; the second ends at a terminal."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(0)
        self.seen, self.episode = [], -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_number = self.episode + 1, 0
        self.seen.append([])
        return self.look(), {"power": 0.0}

    def look(self):
        self.seen[-1].append(self.observation_space.sample())
        return self.seen[-1][-1]

    def step(self, action):
        self.step_number += 1
        over = self.step_number >= LENGTHS[self.episode]
        ended = over and self.episode == 1
        info = {"power": float(self.step_number)}
        return self.look(), 0.5 * self.step_number, ended, over and not ended, info


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Records a dataset; its folder, what was seen, and the actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari = pytest.importorskip("minari", reason="the extra minari is not installed")

    def record(observation_space, action_space, name="test/recorded-v0"):
        environment = Recorded(observation_space, action_space)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an author that is not given
            collector = minari.DataCollector(environment, record_infos=True)
            action_space.seed(1)
            actions = []
            for length in LENGTHS:
                collector.reset()
                actions.append([action_space.sample() for _ in range(length)])
                for action in actions[-1]:
                    collector.step(action)
            collector.create_dataset(name, algorithm_name="random")
            collector.close()
            collector._tmp_dir.cleanup()  # else it warns when it is collected
        return tmp_path / name, environment.seen, actions

    return record


BOX = gym.spaces.Box(-1, 1, (3,))


def test_boxes(record):
    actions = gym.spaces.Box(np.array([-2.0, -1], np.float32), 3.0, (2,))
    folder, seen, taken = record(BOX, actions)
    for place in (folder, "test/recorded-v0"):
        spaces, episodes = open_minari(place)
        assert spaces == Spaces(3, Continuous((-2.0, -1.0), (3.0, 3.0)))
        episodes = list(episodes)
        assert [len(episode.rewards) for episode in episodes] == list(LENGTHS)
    for index, episode in enumerate(episodes):
        np.testing.assert_array_equal(episode.observations, seen[index][:-1])
        np.testing.assert_array_equal(episode.final_observation, seen[index][-1])
        assert episode.has_final_observation
        np.testing.assert_array_equal(episode.actions, taken[index])
        steps = np.arange(1, LENGTHS[index] + 1)
        np.testing.assert_array_equal(
            episode.rewards, (0.5 * steps).astype(np.float32), strict=True
        )
        np.testing.assert_array_equal(episode.extras["infos/power"], steps * 1.0)
        assert episode.terminated == (index == 1)
        assert episode.truncated == (index != 1)
        assert episode.discounts[-1] == (index != 1)
        assert (episode.task, episode.episode_id) == ("test/recorded-v0", index)
    assert next(open_minari(folder, task="reach")[1]).task == "reach"


def test_dictionaries_are_flattened_in_the_order_of_names(record):
    space = gym.spaces.Dict(
        {
            "b": gym.spaces.Box(-1, 1, (2,)),
            "a": gym.spaces.Dict(
                {"z": gym.spaces.Discrete(3), "y": gym.spaces.Box(-1, 1, (2, 2))}
            ),
            "c": gym.spaces.Tuple([gym.spaces.Box(-1, 1, (1,))] * 11),
        }
    )
    folder, seen, taken = record(space, gym.spaces.Discrete(5))
    spaces, episodes = open_minari(folder)
    assert spaces == Spaces(4 + 1 + 2 + 11, Discrete(5))
    for index, episode in enumerate(episodes):
        rows = [
            np.concatenate(
                [one["a"]["y"].ravel(), [one["a"]["z"]], one["b"], *one["c"]],
                dtype=np.float32,
            )
            for one in seen[index]
        ]
        np.testing.assert_array_equal(episode.observations, rows[:-1])
        np.testing.assert_array_equal(episode.final_observation, rows[-1])
        np.testing.assert_array_equal(episode.actions, taken[index])
        assert episode.actions.dtype == np.int32


def test_texts_in_infos_are_left_out(record):
    folder, _, _ = record(BOX, gym.spaces.Box(-1, 1, (2,)))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for index, length in enumerate(LENGTHS):
            file[f"episode_{index}/infos/word"] = ["word"] * length
            file[f"episode_{index}/infos/deep/fixed"] = np.array([b"a"] * length)
    for episode in open_minari(folder)[1]:
        assert set(episode.extras) == {"infos/power"}


def test_actions_of_several_boxes_or_without_bounds(record):
    parts = gym.spaces.Dict({"b": gym.spaces.Box(-1, 1, (2,)), "a": BOX})
    folder, _, taken = record(BOX, parts, "test/parts-v0")
    spaces, episodes = open_minari(folder)
    assert spaces.action == Continuous((-1.0,) * 5, (1.0,) * 5)
    first = taken[0][0]
    np.testing.assert_array_equal(
        next(episodes).actions[0], np.concatenate([first["a"], first["b"]])
    )
    endless = gym.spaces.Box(-np.inf, np.inf, (2,))
    folder, _, _ = record(BOX, endless, "test/endless-v0")
    with pytest.raises(ValueError, match="expected finite bounds low < high .* -inf"):
        open_minari(folder)
    spaces, _ = open_minari(folder, action_bounds=(-3.0, 3.0))
    assert spaces.action == Continuous((-3.0, -3.0), (3.0, 3.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_1/rewards": None}, "episode_1/rewards: expected a dataset"),
        (
            {"episode_1/rewards": np.zeros(2)},
            "observations: expected 3 rows",
        ),
        ({"episode_1/observations": np.zeros((2, 2))}, "expected 3 numbers a step"),
        ({"episode_1/actions": np.zeros((1, 3))}, "actions: expected 2 numbers a step"),
        ({"episode_1/actions": np.full((1, 2), np.nan)}, "actions: expected finite"),
        ({"episode_0/terminations": [0, 1, 0, 0]}, "expected 0, and 0 or 1 at the end"),
        ({"episode_1/infos/power": np.zeros(4)}, "expected 1 or 2 rows"),
        (
            {"episode_1/observations": [b"a", b"b"]},
            "observations: expected numbers",
        ),
        ({"episode_2": None}, "expected 3 episodes as metadata.json says, .* found 2"),
    ],
)
def test_bad_data_are_named(record, changes, message):
    folder, _, _ = record(BOX, gym.spaces.Box(-1, 1, (2,)))
    path = folder / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        for name, values in changes.items():
            del file[name]
            if values is not None:
                file[name] = np.asarray(values)
    with pytest.raises(ValueError, match=message) as error:
        list(open_minari(folder)[1])
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_format": "arrow"}, "data_format: expected hdf5, found 'arrow'"),
        ({"total_episodes": "many"}, "expected JSON with total_episodes"),
        ({"action_space": "{}"}, "action_space: expected a space, KeyError"),
        ({"action_space": '{"type": "Text"}'}, "action_space: expected boxes, .* Text"),
        (
            {"action_space": '{"type": "Discrete", "start": 1, "n": 3}'},
            "expected boxes, or at most 65536 actions from 0, found 3 actions from 1",
        ),
        ({"action_space": "[" * 10_000}, "expected JSON with total_episodes"),
    ],
)
def test_bad_metadata_are_named(record, changes, message):
    folder, _, _ = record(BOX, BOX)
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as error:
        open_minari(folder)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_absent_datasets_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(ValueError, match="minari download no/such-v0 fetches it"):
        open_minari("no/such-v0")
    with pytest.raises(ValueError, match="metadata.json: expected a Minari dataset's"):
        open_minari(tmp_path)
