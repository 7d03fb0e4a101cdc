import sys

import gymnasium
import numpy as np
import pytest

from ring_rl.envs import make_vector
from ring_rl.types import Continuous

MAZE = "PointMaze_UMaze-v3"


def test_a_maze_shows_where_it_is_and_where_to_go():
    pytest.importorskip("gymnasium_robotics")
    rows = make_vector(MAZE, 2, seed=0)
    assert rows.spaces.observation == 8 and rows.max_episode_steps == 300
    assert rows.spaces.action == Continuous((-1.0, -1.0), (1.0, 1.0))
    start = rows.reset(np.ones(2, bool))
    # Achieved goal, desired goal, then position and velocity.
    np.testing.assert_array_equal(start[:, :2], start[:, 4:6])
    np.testing.assert_array_equal(start[:, 6:], 0)
    action = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    for _ in range(5):
        observations, rewards, terminated, truncated = rows.step(action)
    np.testing.assert_array_equal(observations[:, 2:4], start[:, 2:4])
    assert observations[0, 6] > 0 > observations[1, 6]
    assert not truncated.any()
    rows.close()


def test_the_missing_extra_is_one_line(monkeypatch):
    monkeypatch.delitem(gymnasium.registry, "PointMaze_Medium-v3", raising=False)
    # What is None in here is not found.
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ring_rl\[maze\]'$"):
        make_vector("PointMaze_Medium-v3", 1, seed=0)
