import dataclasses

import numpy as np
import pytest

from ring_rl.configs import presets
from ring_rl.configs.collecting import training_tasks
from ring_rl.configs.datasets import open_datasets
from ring_rl.configs.run import DarkRoom, Gymnasium, PointMass
from ring_rl.configs.sources import Collected
from ring_rl.envs import make_vector
from ring_rl.envs.hidden_tasks import HiddenTaskEnv


def small(tmp_path, **data):
    environment = PointMass(goals=6, max_steps=5)
    collected = Collected(str(tmp_path), episodes=3, relabelled=4, **data)
    return dataclasses.replace(
        presets()["point-mass"], environment=environment, data=collected
    )


def test_a_goal_has_its_own_episodes_and_those_of_others(tmp_path):
    config = small(tmp_path)
    (store,) = open_datasets(config)
    tasks = config.environment.training_tasks
    assert len(store) == 6 * (3 + 4)
    assert [store.episode(i).task for i in range(18)] == [
        task for task in tasks for _ in range(3)
    ]
    body = HiddenTaskEnv(
        "point_mass_maze", walls=False, step_seconds=0.4, goal_radius=0.05
    )
    changed = 0
    for index, task in enumerate(task for task in tasks for _ in range(4)):
        episode = store.episode(18 + index)
        assert episode.task == task and episode.episode_id == 18 + index
        # The same steps as in an episode of another goal.
        twins = [
            i for i in range(18)
            if np.array_equal(store.episode(i).actions, episode.actions)
        ]  # fmt: skip
        assert any(store.episode(twin).task != task for twin in twins)
        rewards = body.rewards(task, episode.extras["physics"], episode.actions)
        np.testing.assert_allclose(episode.rewards, rewards, atol=1e-6)
        changed += not np.array_equal(store.episode(twins[0]).rewards, rewards)
    assert changed


def test_the_same_settings_are_the_same_dataset_and_others_another(tmp_path):
    config = small(tmp_path)
    open_datasets(config)
    (folder,) = tmp_path.iterdir()
    before = folder.stat().st_mtime_ns
    open_datasets(config)
    assert folder.stat().st_mtime_ns == before
    open_datasets(small(tmp_path, mistaken=0.25))
    assert len(list(tmp_path.iterdir())) == 2


def test_held_out_goals_are_not_trained_on():
    environment = PointMass(walls=True)
    training, held = environment.training_tasks, environment.evaluation_tasks
    assert len(training) == 512 and len(held) == 16
    assert not set(training) & set(held)
    assert {"-0.15,0.15", "0.15,0.15", "-0.15,-0.15", "0.15,-0.15"} < set(held)


@pytest.mark.parametrize("walls", [False, True])
def test_every_way_to_data_leaves_out_the_same_goals(walls):
    environment = PointMass(walls=walls)
    held = set(environment.evaluation_tasks)
    assert training_tasks(environment.id) == environment.training_tasks
    assert set(Gymnasium(environment.id).evaluation_tasks) == held
    # Without a task an environment draws one to train on.
    rows = make_vector(environment.id, 1, seed=0)
    for _ in range(20):
        rows.reset(np.ones(1, bool), [""])
        assert rows.tasks[0] in environment.training_tasks


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 20 seconds in all, found 100 steps"):
        PointMass(max_steps=100)
    with pytest.raises(ValueError, match="relabelled at least 0, found 200, 0 and -1"):
        Collected(relabelled=-1)
    config = dataclasses.replace(
        presets()["dark-room-tiny"], data=Collected(str(tmp_path), relabelled=1)
    )
    assert isinstance(config.environment, DarkRoom)
    with pytest.raises(ValueError, match="expected 0 in the dark room"):
        open_datasets(config)
