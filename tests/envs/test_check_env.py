"""Gymnasium's own checks of every environment, and long random episodes of ExoRL's."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ring_rl.envs import families, make_vector
from ring_rl.envs.exorl import EXORL_TASKS, exorl_tasks
from ring_rl.types import Continuous

ARMS = [task for task in exorl_tasks() if task.startswith("jaco_")]
# One task of each domain in every run, the others where slow tests run.
TASKS = [
    pytest.param(f"{domain}_{task}", marks=pytest.mark.slow if number else ())
    for domain, tasks in EXORL_TASKS.items()
    for number, task in enumerate(tasks)
]


def check(name: str) -> None:
    environment = gymnasium.make(name, disable_env_checker=True).unwrapped
    # Rendering needs a renderer; it has tests of its own.
    check_env(environment, skip_render_check=True)
    environment.close()


# Its advice, which is no fault: bounds of observations, and of actions at 1 and -1.
ADVICE = pytest.mark.filterwarnings(
    "ignore:.*infinity. This is probably too (low|high):UserWarning",
    "ignore:.*we recommend using a symmetric and normalized space:UserWarning",
)


@ADVICE
@pytest.mark.parametrize("name", [family.name for family in families()])
def test_every_family_passes_gymnasiums_checks(name):
    check(name)


@ADVICE
@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_exorl_passes_gymnasiums_checks(task):
    check(f"exorl/{task}")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_exorl_plays_a_whole_episode_at_random(task):
    rows = make_vector(f"exorl/{task}", 1, seed=0)
    steps = 250 if task in ARMS else 1000
    assert rows.max_episode_steps == steps
    rows.reset(np.ones(1, bool))
    random = np.random.default_rng(0)
    assert isinstance(rows.spaces.action, Continuous)
    low, high = rows.spaces.action.low, rows.spaces.action.high
    for step in range(steps):
        action = random.uniform(low, high).astype(np.float32)[None]
        observations, rewards, terminated, truncated = rows.step(action)
        assert np.isfinite(observations).all() and 0 <= rewards[0] <= 1
        assert not terminated[0] and truncated[0] == (step == steps - 1)
    rows.close()
