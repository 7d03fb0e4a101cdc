import gymnasium
import numpy as np
import pytest

from ring_rl.envs import make_vector, split_hidden_tasks
from ring_rl.envs.exorl import reward_function
from ring_rl.envs.hidden_tasks import HiddenTaskEnv

EVERYONE = np.ones(1, bool)


def play(rows, task, actions):
    """Observations and rewards of an episode's first steps."""
    observations, rewards = [rows.reset(EVERYONE, [task])], []
    for action in actions:
        observation, reward, _, _ = rows.step(action[None])
        observations.append(observation)
        rewards.append(reward[0])
    return np.concatenate(observations), np.array(rewards)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("ring_rl/Walker-v0", ("stand", "flip")),
        ("ring_rl/Cheetah-v0", ("run", "run_backward")),
        ("ring_rl/PointMassMaze-v0", ("-0.15,0.15", "0.2,-0.1")),
    ],
)
def test_the_observation_does_not_say_which_task_it_is(name, tasks):
    found = []
    for task in tasks:
        rows = make_vector(name, 1, seed=3)
        random = np.random.default_rng(0)
        width = rows.spaces.action.size
        actions = random.uniform(-1, 1, (150, width)).astype(np.float32)
        found.append(play(rows, task, actions))
        assert rows.tasks == [task]
    (one, first), (other, second) = found
    # The same seed and actions: the same body does the same, whatever it is told.
    np.testing.assert_array_equal(one, other)
    if name != "ring_rl/PointMassMaze-v0":  # which hardly gets to a goal by chance
        assert not np.array_equal(first, second)


def test_rewards_are_those_of_exorl():
    environment = gymnasium.make(
        "ring_rl/PointMassMaze-v0", disable_env_checker=True, task="0.15,0.15"
    )
    environment.reset(seed=0)
    inner = environment.unwrapped
    assert isinstance(inner, HiddenTaskEnv)
    physics = inner._body.physics
    exact = reward_function("point_mass_maze_reach_top_right")
    random = np.random.default_rng(0)
    rewarded = 0
    for _ in range(40):
        # Somewhere near the goal, where there is something to earn.
        physics.data.qpos[:] = (0.15, 0.15) + random.normal(0, 0.02, 2)
        physics.data.qvel[:] = 0
        action = random.uniform(-1, 1, 2).astype(np.float32)
        _, reward, *_ = environment.step(action)
        state = physics.get_state()[None]
        assert reward == pytest.approx(exact(state, action[None])[0], abs=1e-6)
        rewarded += float(reward) > 0.1
    assert rewarded > 10


@pytest.mark.parametrize("name", ["ring_rl/PointMassMaze-v0", "ring_rl/PointMass-v0"])
def test_goals_are_free_apart_and_the_same_for_a_seed(name):
    split = split_hidden_tasks(name, goals=200, held_out=12)
    assert split == split_hidden_tasks(name, goals=200, held_out=12)
    other = split_hidden_tasks(name, goals=200, held_out=4, seed=1)
    assert split.held_out and split.training != other.training
    # ExoRL's four are always held out.
    assert other.evaluation == split.evaluation[:4] and len(split.evaluation) == 12
    assert len(set(split.training)) > 190
    held, goals = (
        np.array([[float(word) for word in task.split(",")] for task in tasks])
        for tasks in (split.evaluation, split.training)
    )
    assert (np.abs(held) <= 0.27).all() and (np.abs(goals) <= 0.27).all()
    apart = np.linalg.norm(goals[:, None] - held[None], axis=-1)
    among = np.linalg.norm(held[:, None] - held[None], axis=-1) + np.eye(12)
    assert apart.min() >= 0.05 - 1e-9 and among.min() >= 0.05 - 1e-9
    # No goal (radius 0.015) touches a wall: boxes of 0.02 by 0.18 about the middle.
    nearest = [
        np.linalg.norm(np.maximum(np.abs(goals) - half, 0), axis=-1).min()
        for half in ((0.02, 0.18), (0.18, 0.02))
    ]
    assert (min(nearest) > 0.015) == ("Maze" in name)
    # Everywhere else there are some: in all four quarters, and behind the walls' ends.
    assert len({tuple(place) for place in (goals > 0).tolist()}) == 4


def test_an_arena_without_walls_is_crossed_from_its_middle():
    options = {"step_seconds": 0.4, "goal_radius": 0.03, "max_episode_steps": 20}
    rows = make_vector("ring_rl/PointMass-v0", 1, seed=0, **options)
    towards = np.tile(np.float32([1, 0]), (20, 1))
    observations, rewards = play(rows, "0.15,0", towards)
    np.testing.assert_allclose(observations[0], 0, atol=1e-6)
    assert observations[-1, 0] > 0.28  # through where a wall would be
    # It passes the goal: reward where it is within reach, none at the start or beyond.
    near = np.abs(observations[1:, 0] - 0.15) < 0.03
    assert near.any() and (rewards[near] > 0.7).all()
    assert rewards[0] < 0.01 and rewards[-1] < 0.01
    assert not rows.step(towards[:1])[3].any()  # over, and silent


@pytest.mark.parametrize(
    ("name", "task", "options"),
    [
        ("ring_rl/PointMass-v0", "0.1,-0.05", {"goal_radius": 0.1}),
        ("ring_rl/PointMassMaze-v0", "-0.2,0.2", {"goal_radius": 0.1}),
        ("ring_rl/Walker-v0", "walk", {}),
    ],
)
def test_rewards_of_another_task_are_those_it_would_have_given(name, task, options):
    body = HiddenTaskEnv(**gymnasium.spec(name).kwargs, step_seconds=0.1, **options)
    body.task = task
    body.reset(seed=0)
    random = np.random.default_rng(0)
    width = body.action_space.shape[0]
    states, actions, online = [], [], []
    for _ in range(25):
        actions.append(random.uniform(-1, 1, width).astype(np.float32))
        _, reward, *_ = body.step(actions[-1])
        states.append(body.physics.get_state())
        online.append(reward)
    again = HiddenTaskEnv(**gymnasium.spec(name).kwargs, step_seconds=0.1, **options)
    found = again.rewards(task, np.array(states), np.array(actions))
    np.testing.assert_allclose(found, online, atol=1e-6)
    assert np.ptp(online) > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ring_rl/PointMass-v0", {"goal_radius": 0.0}, "goal_radius: expected a numb"),
        ("ring_rl/PointMass-v0", {"step_seconds": -1.0}, "step_seconds: expected a nu"),
        ("ring_rl/Walker-v0", {"goal_radius": 0.1}, "expected none for walker"),
        ("ring_rl/Walker-v0", {"walls": False}, "walls, goal_radius: expected none"),
        ("exorl/cartpole_swingup", {"step_seconds": 0.1}, "none for cartpole"),
        ("dmc/cartpole-swingup", {"step_seconds": 0.1}, "expected none for cartpole"),
    ],
)
def test_a_wrong_option_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_vector(name, 1, seed=0, **options)


def test_without_a_task_one_is_drawn():
    rows = make_vector("ring_rl/Walker-v0", 1, seed=0)
    drawn = set()
    for _ in range(12):
        rows.reset(EVERYONE, [""])
        drawn.add(rows.tasks[0])
    assert drawn <= {"stand", "walk", "run", "flip"} and len(drawn) >= 3


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("ring_rl/Walker-v0", "fly", "expected one of stand, walk, run, flip"),
        ("ring_rl/PointMassMaze-v0", "0,0", "outside the walls, found '0,0'"),
        ("ring_rl/PointMassMaze-v0", "0.3,0.3", "found '0.3,0.3'"),
        ("ring_rl/PointMassMaze-v0", "nan,0.1", "found 'nan,0.1'"),
        ("ring_rl/PointMassMaze-v0", "here", "found 'here'"),
    ],
)
def test_a_wrong_task_is_refused(name, task, message):
    with pytest.raises(ValueError, match=message):
        make_vector(name, 1, seed=0).reset(EVERYONE, [task])


def test_a_wrong_family_is_refused():
    with pytest.raises(ValueError, match="expected one of ring_rl/PointMassMaze-v0"):
        split_hidden_tasks("ring_rl/DarkRoom-v0")
    with pytest.raises(ValueError, match="at least 1 and 4, found 0 and 16"):
        split_hidden_tasks("ring_rl/PointMassMaze-v0", goals=0)
    with pytest.raises(ValueError, match="so few that goals can be"):
        split_hidden_tasks("ring_rl/PointMass-v0", held_out=1000)
