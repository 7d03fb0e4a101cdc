"""ExoRL's rewards from recorded states, against those that dm_control gave online."""

import pickle

import numpy as np
import pytest

from ring_rl.envs.exorl import (
    EXORL_TASKS,
    ExorlRewards,
    exorl_tasks,
    make_exorl,
    reward_function,
)
from ring_rl.types import Episode


def record(task: str, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States after each step, actions and rewards of random actions, online."""
    environment = make_exorl(task, seed=1)
    environment.reset()
    spec = environment.action_spec()
    random = np.random.default_rng(0)
    states, actions, rewards = [], [], []
    for _ in range(steps):
        # As recorded: what acts is rounded to float32.
        action = random.uniform(spec.minimum, spec.maximum).astype(np.float32)
        step = environment.step(action)
        assert step.reward is not None
        states.append(environment.physics.get_state())
        actions.append(action)
        rewards.append(step.reward)
    return np.array(states), np.array(actions), np.array(rewards)


@pytest.mark.parametrize("domain", EXORL_TASKS)
def test_rewards_are_those_that_the_environment_gave(domain):
    for task in EXORL_TASKS[domain]:
        steps = 40 if domain == "jaco" else 200
        states, actions, rewards = record(f"{domain}_{task}", steps)
        # Out of order, so that nothing can come from the state before.
        order = np.random.default_rng(0).permutation(steps)
        function = reward_function(f"{domain}_{task}")
        again = function(states[order], actions[order])
        np.testing.assert_allclose(again, rewards[order], rtol=0, atol=1e-9)


def test_the_control_counts_where_the_reward_looks_at_it():
    states, actions, rewards = record("cartpole_swingup", 50)
    without = reward_function("cartpole_swingup")(states, np.zeros_like(actions))
    assert np.abs(without - rewards).max() > 1e-4


def _set(environment, qpos: list[float], qvel: list[float]) -> np.ndarray:
    physics = environment.physics
    with physics.reset_context():
        physics.data.qpos[: len(qpos)] = qpos
        physics.data.qvel[: len(qvel)] = qvel
    return physics.get_state()[None]


@pytest.mark.parametrize("speed, expected", [(-5, 0.5), (-12, 1), (5, 0), (0, 0)])
def test_running_backward_is_paid_by_the_speed_backward(speed, expected):
    environment = make_exorl("cheetah_run_backward")
    environment.reset()
    state = _set(environment, [0.0], [float(speed)])
    found = reward_function("cheetah_run_backward")(state, np.zeros((1, 6)))
    assert found[0] == pytest.approx(expected)


def test_flipping_is_paid_for_turning_and_a_sixth_for_standing():
    environment = make_exorl("walker_flip")
    environment.reset()
    zero = np.zeros((1, 6))
    # The third joint turns the whole walker; upright it stands at full height.
    still, turning, fast, back = (
        _set(environment, [0.0], [0.0, 0.0, float(speed)]) for speed in (0, 0.5, 9, -9)
    )
    flip, stand = reward_function("walker_flip"), reward_function("walker_stand")
    standing = stand(still, zero)[0]
    assert standing > 0.9
    assert flip(still, zero)[0] == pytest.approx(standing / 6)
    assert flip(back, zero)[0] == pytest.approx(standing / 6)
    assert standing / 6 < flip(turning, zero)[0] < standing
    assert flip(fast, zero)[0] == pytest.approx(standing)


@pytest.mark.parametrize(
    "corner, x, y", [("top_left", -0.15, 0.15), ("bottom_right", 0.15, -0.15)]
)
def test_the_point_mass_is_paid_at_its_corner_and_less_for_controls(corner, x, y):
    function = reward_function(f"point_mass_maze_reach_{corner}")
    states = np.array([[x, y, 0, 0], [x, y, 0, 0], [-x, y, 0, 0], [x, y + 0.03, 0, 0]])
    controls = np.array([[0, 0], [1, 1], [0, 0], [0, 0]])
    # 0.03 is the edge of the target and its margin once more, where 0.1 is paid.
    assert function(states, controls) == pytest.approx([1, 0.8, 0, 0.1], abs=1e-6)


def test_the_maze_has_walls():
    environment = make_exorl("point_mass_maze_reach_top_right")
    environment.reset()
    x, y = environment.physics.get_state()[:2]
    assert -0.29 <= x <= -0.15 and 0.15 <= y <= 0.29
    # Below the end of the wall in the middle, straight at it from the left.
    environment.physics.set_state(np.array([-0.1, 0.1, 0.0, 0.0]))
    for _ in range(200):
        environment.step(np.array([1.0, 0.0]))
    assert environment.physics.get_state()[0] < 0


def test_bad_input_is_one_line():
    function = reward_function("cartpole_balance")
    states, actions = np.zeros((3, 4)), np.zeros((3, 1))
    with pytest.raises(
        ValueError, match=r"^physics: expected \[3, 4\], found \[3, 5\]"
    ):
        function(np.zeros((3, 5)), actions)
    with pytest.raises(
        ValueError, match=r"^actions: expected \[3, 1\], found \[2, 1\]"
    ):
        function(states, actions[:2])
    for value in (np.nan, -np.inf, 1e11):
        states[1, 2] = value
        message = rf"^physics: expected numbers up to 1e\+10, found {value} in row 1$"
        with pytest.raises(ValueError, match=message):
            function(states, actions)
    for make in (make_exorl, ExorlRewards):
        with pytest.raises(ValueError, match="^task: expected one of .* 'walker_hop'$"):
            make("walker_hop")


def test_a_relabelling_travels_and_needs_physics(make_physics_episode):
    relabelling = pickle.loads(pickle.dumps(ExorlRewards("walker_run")))
    assert "walker_run" in relabelling.identity()
    assert "mujoco" in relabelling.identity()
    states, actions, rewards = record("walker_run", 20)
    episode = make_physics_episode(states, actions)
    assert relabelling.task(episode) == "walker_run"
    again = relabelling.rewards(*relabelling.inputs(episode))
    np.testing.assert_allclose(again, rewards, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"'physics'.* found \[\]$"):
        relabelling.inputs(episode._replace(extras={}))


@pytest.fixture
def make_physics_episode():
    def make(states: np.ndarray, actions: np.ndarray) -> Episode:
        steps = len(states)
        return Episode(
            observations=np.zeros((steps, 1), np.float32),
            actions=actions,
            rewards=np.zeros(steps, np.float32),
            discounts=np.ones(steps, np.float32),
            final_observation=np.zeros(1, np.float32),
            has_final_observation=True,
            terminated=False,
            truncated=True,
            task="exploration",
            episode_id=0,
            extras={"physics": states},
        )

    return make


def test_every_task_has_one_name():
    assert len(exorl_tasks()) == len(set(exorl_tasks())) == 20
