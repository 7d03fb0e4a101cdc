"""Exploration data: collected once for a domain, with the rewards of each task."""

import numpy as np
import pytest

from ring_rl.configs.exploring import exploration, open_explored
from ring_rl.configs.run import DarkRoom, Gymnasium
from ring_rl.configs.sources import Explored
from ring_rl.envs import make_vector
from ring_rl.envs.exorl import reward_function


def explored(tmp_path, **changes) -> Explored:
    return Explored(**{"parent": str(tmp_path), "explorer": "random", **changes})


def test_a_task_has_the_exploration_of_its_domain_and_its_own_rewards(tmp_path):
    data = explored(tmp_path, steps=30)
    (walk,) = open_explored(Gymnasium("exorl/walker_walk", max_steps=15), data)
    (stand,) = open_explored(Gymnasium("exorl/walker_stand", max_steps=15), data)
    assert len(walk) == len(stand) == 2 and walk.lengths.tolist() == [15, 15]
    np.testing.assert_array_equal(walk.actions, stand.actions)
    assert set(walk.tasks) == {"walker_walk"} and set(stand.tasks) == {"walker_stand"}
    for store, task in ((walk, "walker_walk"), (stand, "walker_stand")):
        physics = np.asarray(store.extras["physics"], np.float64)
        expected = reward_function(task)(physics, np.asarray(store.actions))
        np.testing.assert_allclose(store.rewards, expected, atol=1e-6)
    assert not np.array_equal(walk.rewards, stand.rewards)
    # What is there is used again.
    before = sorted(path.name for path in tmp_path.iterdir())
    open_explored(Gymnasium("exorl/walker_walk", max_steps=15), data)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_family_has_a_store_for_each_of_its_tasks(tmp_path):
    environment = Gymnasium("ring_rl/Cheetah-v0", max_steps=10)
    stores = open_explored(environment, explored(tmp_path, steps=20))
    assert [set(store.tasks) for store in stores] == [
        {"cheetah_run"},
        {"cheetah_run_backward"},
    ]
    np.testing.assert_array_equal(stores[0].observations, stores[1].observations)
    rows = environment.make(1, seed=0)
    assert rows.spaces == stores[0].spaces
    rows.close()


def test_tasks_that_start_alike_share_their_exploration():
    def folder(task: str, **changes):
        return exploration(task, 0, Explored(**changes))[1]

    assert folder("walker_run") == folder("walker_flip")
    assert folder("cartpole_swingup") == folder("cartpole_swingup_sparse")
    # The pole hangs, or stands.
    assert folder("cartpole_swingup") != folder("cartpole_balance")
    for changes in ({"steps": 7}, {"seed": 1}, {"explorer": "random"}):
        assert folder("walker_run", **changes) != folder("walker_run")
    # Every task has the spaces of where its domain is explored.
    for task in ("cartpole_balance_sparse", "jaco_reach_bottom_right"):
        place, _ = exploration(task, 5, Explored())
        assert place.options == (("max_episode_steps", 5),)
        found, own = (
            make_vector(name, 1, seed=0) for name in (place.id, f"exorl/{task}")
        )
        assert found.spaces == own.spaces


def test_what_cannot_be_explored_is_refused(tmp_path):
    for environment in (Gymnasium("Hopper-v5"), Gymnasium("exorl/walker"), DarkRoom()):
        with pytest.raises(ValueError, match="expected an environment that can be exp"):
            open_explored(environment, explored(tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="steps must be at least 1 and seed at least"):
        explored(tmp_path, steps=0)
