import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from ring_rl.envs import make_vector
from ring_rl.envs.exorl import exorl_tasks
from ring_rl.envs.from_dm_control import DmControlEnv, suite_tasks


def test_the_suite_is_all_there():
    from dm_control import suite

    assert set(suite_tasks()) == set(suite.ALL_TASKS)
    names = {f"dmc/{domain}-{task}" for domain, task in suite_tasks()}
    names |= {f"exorl/{task}" for task in exorl_tasks()}
    assert names <= set(gymnasium.registry)


def test_a_task_is_the_suites_own():
    from dm_control import suite

    environment = gymnasium.make("dmc/walker-walk", disable_env_checker=True)
    theirs = suite.load("walker", "walk", task_kwargs={"random": 7})
    observation, _ = environment.reset(seed=7)
    step = theirs.reset()
    random = np.random.default_rng(0)
    for _ in range(50):
        # In the order that dm_control lists them in.
        assert list(step.observation) == ["orientations", "height", "velocity"]
        expected = np.concatenate([np.ravel(x) for x in step.observation.values()])
        np.testing.assert_array_equal(observation, expected.astype(np.float32))
        action = random.uniform(-1, 1, 6).astype(np.float32)
        observation, reward, terminated, truncated, _ = environment.step(action)
        step = theirs.step(action)
        assert reward == step.reward and not terminated and not truncated
    assert observation.dtype == np.float32


def test_seeds_give_the_same_episodes_and_others_give_others():
    starts = []
    for seed in (0, 0, 1):
        rows = make_vector("dmc/cartpole-swingup", 2, seed=seed)
        everyone = np.ones(2, bool)
        first, second = rows.reset(everyone), rows.reset(everyone)
        starts.append(np.stack([first, second]))
        rows.close()
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
    # Rows differ, and so do a row's episodes.
    assert len({start.tobytes() for start in starts[0].reshape(4, -1)}) == 4


@pytest.mark.parametrize(
    ("name", "steps"), [("dmc/point_mass-easy", 1000), ("exorl/walker_flip", 1000)]
)
def test_time_limits_truncate(name, steps):
    rows = make_vector(name, 1, seed=0)
    assert rows.max_episode_steps == steps
    rows.reset(np.ones(1, bool))
    action = np.zeros((1, rows.spaces.action.size), np.float32)
    for step in range(steps):
        _, _, terminated, truncated = rows.step(action)
        assert not terminated[0] and truncated[0] == (step == steps - 1)


def test_a_discount_of_nothing_terminates(monkeypatch):
    environment = DmControlEnv("cartpole", "balance")
    environment.reset(seed=0)
    task = environment._environment.task
    action = np.zeros(1, np.float32)
    assert environment.step(action)[2:4] == (False, False)
    monkeypatch.setattr(task, "get_termination", lambda physics: 0.0)
    assert environment.step(action)[2:4] == (True, False)
    environment.reset()
    monkeypatch.setattr(task, "get_termination", lambda physics: 1.0)
    assert environment.step(action)[2:4] == (False, True)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="found 'walker' and 'fly'"):
        DmControlEnv("walker", "fly")
    with pytest.raises(ValueError, match="expected one of cartpole_balance"):
        DmControlEnv("exorl", "walker_fly")


DRAWING = """
import sys
import gymnasium
import numpy as np
import ring_rl.envs

name = sys.argv[1]
drawn = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
plain = gymnasium.make(name, disable_env_checker=True)
drawn.reset(seed=0), plain.reset(seed=0)
action = np.full(plain.action_space.shape, 0.5, np.float32)
for _ in range(5):
    try:
        picture = drawn.render()
    except Exception as error:
        sys.exit(f"no renderer: {error}")
    one, other = drawn.step(action), plain.step(action)
    # Drawing changes nothing.
    np.testing.assert_array_equal(one[0], other[0])
assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
assert picture.std() > 5, "a picture of something"
assert plain.unwrapped.render() is None
"""


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is Linux's")
def test_it_draws_itself_where_there_is_a_renderer():
    # In a process of its own: MuJoCo chooses its renderer when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", DRAWING, "dmc/walker-walk"],
        env={**os.environ, "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
    )
    if "no renderer" in done.stderr or "EGL" in done.stderr:
        pytest.skip(f"no renderer on this machine: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
