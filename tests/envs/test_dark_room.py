import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ring_rl.envs import (
    DARK_ROOM_ACTIONS,
    DarkRoomEnv,
    dark_room_tasks,
    split_tasks,
)

STAY, UP, DOWN, LEFT, RIGHT = range(len(DARK_ROOM_ACTIONS))


def position(observation):
    x, y = np.split(observation, 2)
    assert x.sum() == y.sum() == 1
    return int(x.argmax()), int(y.argmax())


def best_return(task):
    """Walks straight to the goal and stays."""
    env = DarkRoomEnv(task=task)
    observation, _ = env.reset()
    goal = tuple(map(int, task.split(",")))
    total, over = 0.0, False
    while not over:
        (x, y), (goal_x, goal_y) = position(observation), goal
        action = STAY
        if x != goal_x:
            action = RIGHT if x < goal_x else LEFT
        elif y != goal_y:
            action = UP if y < goal_y else DOWN
        observation, reward, terminated, over, _ = env.step(action)
        assert not terminated
        total += reward
    return total


@pytest.mark.smoke
def test_gymnasium_accepts_it():
    env = gymnasium.make("ring_rl/DarkRoom-v0", disable_env_checker=True)
    check_env(env.unwrapped)


def test_the_best_return_averages_16_and_a_half():
    assert np.mean([best_return(task) for task in dark_room_tasks(9)]) == 16.5


def test_moves_and_walls():
    env = DarkRoomEnv(size=3, task="0,0")
    observation, _ = env.reset()
    assert position(observation) == (1, 1)
    for action, expected in (
        (STAY, (1, 1)),
        (UP, (1, 2)),
        (UP, (1, 2)),
        (LEFT, (0, 2)),
        (LEFT, (0, 2)),
        (DOWN, (0, 1)),
        (RIGHT, (1, 1)),
    ):
        observation, *_ = env.step(action)
        assert position(observation) == expected


def test_every_step_on_the_goal_is_rewarded_and_only_those():
    env = DarkRoomEnv(size=3, max_steps=5, task="2,1")
    env.reset()
    rewards = [env.step(action)[1] for action in (STAY, RIGHT, STAY, LEFT, RIGHT)]
    assert rewards == [0, 1, 1, 0, 1]


def test_the_observation_does_not_show_the_goal():
    first, second = DarkRoomEnv(task="0,0"), DarkRoomEnv(task="8,8")
    np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    for action in (UP, LEFT, STAY):
        np.testing.assert_array_equal(first.step(action)[0], second.step(action)[0])


@pytest.mark.parametrize("options", [{}, {"max_steps": 7}, {"max_steps": 33}])
def test_the_length_is_its_own_and_shows_in_the_spec(options):
    env = gymnasium.make("ring_rl/DarkRoom-v0", **options)
    expected = options.get("max_steps", 20)
    assert env.spec is not None and env.spec.max_episode_steps == expected
    env.reset(seed=0)
    ends = [env.step(np.int64(STAY))[2:4] for _ in range(expected)]
    assert ends == [(False, False)] * (expected - 1) + [(False, True)]


def test_the_task_is_the_one_set_before_the_reset():
    env = DarkRoomEnv(size=3)
    env.task = "2,1"
    assert env.reset()[1]["task"] == "2,1"
    env.task = "0,1"
    assert env.step(RIGHT)[1] == 1, "the goal of a running episode does not move"
    assert env.reset()[1]["task"] == "0,1"
    assert env.step(LEFT)[1] == 1


def test_without_a_task_each_reset_draws_one_of_all_but_the_start():
    env = DarkRoomEnv(size=3)
    env.reset(seed=1)
    drawn = {env.reset()[1]["task"] for _ in range(200)}
    assert drawn == set(dark_room_tasks(3))
    assert "1,1" not in drawn and len(drawn) == 8
    again = DarkRoomEnv(size=3)
    assert env.reset(seed=5)[1] == again.reset(seed=5)[1]


def test_split_tasks_parts_the_goals():
    train, held_out = split_tasks(9, 16, seed=0)
    assert len(train) == 64 and len(held_out) == 16
    assert set(train) | set(held_out) == set(dark_room_tasks(9))
    assert (train, held_out) == split_tasks(9, 16, seed=0)
    assert held_out != split_tasks(9, 16, seed=1)[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: DarkRoomEnv(task="9,0"),
        lambda: DarkRoomEnv(task="4,4"),
        lambda: DarkRoomEnv(task="goal"),
        lambda: DarkRoomEnv(size=1),
        lambda: DarkRoomEnv(max_steps=0),
        lambda: DarkRoomEnv().step(5),
        lambda: DarkRoomEnv().step(-1),
        lambda: split_tasks(9, 80, 0),
    ],
)
def test_mistakes_say_what_was_expected(make):
    with pytest.raises(ValueError, match=r"expected .*found"):
        make()


def test_it_draws_itself_as_text():
    env = DarkRoomEnv(size=3, task="2,2", render_mode="ansi")
    env.reset()
    assert env.render() == ". . G\n. A .\n. . .\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gymnasium.make("ring_rl/DarkRoom-v0", render_mode="ansi").spec


def test_it_draws_itself_as_a_picture():
    room = DarkRoomEnv(size=3, task="0,2", render_mode="rgb_array")
    room.reset(seed=0)
    picture = room.render()
    assert picture.shape == (72, 72, 3) and picture.dtype == np.uint8
    middles = picture[12::24, 12::24].astype(int)
    floor = middles[2, 2]
    odd = np.argwhere((middles != floor).any(axis=-1)).tolist()
    # The goal above on the left, the agent in the centre.
    assert odd == [[0, 0], [1, 1]]
    room.step(UP)
    assert (room.render() != picture).any()
