import gymnasium
import numpy as np
import pytest

from ring_rl.envs import make_vector
from ring_rl.types import Discrete

ROOM = "ring_rl/DarkRoom-v0"
STAY, UP, DOWN, LEFT, RIGHT = range(5)
ALL = np.ones(2, bool)


def constant(environment, value):
    action = environment.spaces.action
    if isinstance(action, Discrete):
        return np.full(environment.rows, value, np.int32)
    return np.full((environment.rows, action.size), value, np.float32)


def run(environment, steps, seed=0):
    """Random actions, resets of what ended; everything seen."""
    generator = np.random.default_rng(seed)
    seen = [environment.reset(np.ones(environment.rows, bool))]
    for _ in range(steps):
        action = environment.spaces.action
        if isinstance(action, Discrete):
            actions = generator.integers(action.size, size=environment.rows)
        else:
            actions = generator.uniform(
                action.low, action.high, (environment.rows, action.size)
            ).astype(np.float32)
        observations, rewards, terminated, truncated = environment.step(actions)
        seen += [observations, rewards, terminated, truncated]
        over = terminated | truncated
        if over.any():
            seen.append(environment.reset(over))
    return seen


@pytest.mark.parametrize(
    ("env_id", "steps"),
    [(ROOM, 50), ("CartPole-v1", 60), ("Pendulum-v1", 20), ("Hopper-v5", 40)],
)
def test_the_same_seed_gives_the_same_episodes(env_id, steps):
    first, second = (run(make_vector(env_id, 3, seed=7), steps) for _ in range(2))
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_and_seeds_differ_and_later_resets_go_on():
    environment = make_vector("Pendulum-v1", 2, seed=7)
    start = environment.reset(ALL)
    assert not np.array_equal(start[0], start[1])
    assert not np.array_equal(start, environment.reset(ALL))
    assert not np.array_equal(start, make_vector("Pendulum-v1", 2, seed=8).reset(ALL))


def test_a_rows_episodes_do_not_depend_on_the_number_of_rows():
    few = make_vector("Pendulum-v1", 2, seed=7).reset(ALL)
    many = make_vector("Pendulum-v1", 4, seed=7).reset(np.ones(4, bool))
    np.testing.assert_array_equal(few, many[:2])


def test_rows_equal_the_plain_environment():
    environment = make_vector("Hopper-v5", 1, seed=3)
    seed = int(np.random.SeedSequence((3, 0)).generate_state(1)[0])
    plain = gymnasium.make("Hopper-v5")
    expected, _ = plain.reset(seed=seed)
    observations = environment.reset(np.ones(1, bool))
    over = False
    while not over:
        np.testing.assert_array_equal(observations[0], expected.astype(np.float32))
        action = np.array([0.3, -0.2, 0.1], np.float32)
        expected, reward, over, cut, _ = plain.step(action)
        observations, rewards, terminated, truncated = environment.step(action[None])
        assert rewards[0] == np.float32(reward)
        assert (terminated[0], truncated[0]) == (over, cut)


def test_no_reset_behind_ones_back_and_dead_rows_rest():
    environment = make_vector("CartPole-v1", 3, seed=0)
    environment.reset(np.ones(3, bool))
    # One row balances by pushing back; the others are pushed over, at different times.
    ended = np.full(3, -1)
    observations = last = np.zeros((3, 4), np.float32)
    for step in range(40):
        actions = np.ones(3, np.int32)
        actions[0] = observations[0, 2] > 0
        if step < 6:
            actions[1] = step % 2
        observations, rewards, terminated, truncated = environment.step(actions)
        dead = ended >= 0
        assert not (terminated | truncated)[dead].any(), "an end is reported once"
        np.testing.assert_array_equal(rewards, np.where(dead, 0, 1))
        np.testing.assert_array_equal(observations[dead], last[dead])
        ended[terminated] = step
        last = observations
    assert ended[0] == -1 and ended[1] > ended[2] > 0
    assert np.abs(observations[1:, 2]).min() > 0.2, "the pole lies where it fell"


def test_a_reset_touches_only_the_rows_of_its_mask():
    environment = make_vector(ROOM, 2, seed=0, max_steps=5)
    environment.reset(ALL, ["8,4", "8,4"])
    before, *_ = environment.step(np.array([UP, UP]))
    after = environment.reset(np.array([False, True]), ["nonsense", "0,4"])
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.array_equal(after[1], before[1])
    ends = [environment.step(constant(environment, STAY))[3] for _ in range(5)]
    np.testing.assert_array_equal(
        np.array(ends), [[0, 0], [0, 0], [0, 0], [1, 0], [0, 1]]
    )


def test_a_row_that_was_never_reset_counts_as_ended():
    environment = make_vector(ROOM, 2, seed=0, max_steps=2)
    environment.reset(np.array([True, False]))
    environment.step(constant(environment, UP))
    observations, rewards, terminated, truncated = environment.step(np.array([UP, -1]))
    np.testing.assert_array_equal(truncated, [True, False])
    assert not terminated.any() and not rewards[1] and not observations[1].any()


def test_what_is_handed_out_does_not_change_later():
    environment = make_vector(ROOM, 2, seed=0)
    start = environment.reset(ALL)
    kept = start.copy()
    environment.step(constant(environment, UP))
    np.testing.assert_array_equal(start, kept)


def test_tasks_are_set_kept_and_drawn():
    environment = make_vector(ROOM, 2, seed=0)
    environment.reset(ALL, ["5,4", "3,4"])
    assert environment.tasks == ["5,4", "3,4"]
    np.testing.assert_array_equal(environment.step(np.array([RIGHT, LEFT]))[1], [1, 1])
    environment.reset(ALL)
    np.testing.assert_array_equal(environment.step(np.array([RIGHT, LEFT]))[1], [1, 1])
    # Drawn by the environment, kept at later resets without tasks.
    environment.reset(ALL, ["", ""])
    drawn = list(environment.tasks)
    for _ in range(5):
        environment.reset(ALL)
        assert environment.tasks == drawn
    # The task from the environment's own options is what "" leaves it to.
    fixed = make_vector(ROOM, 2, seed=0, task="5,4")
    fixed.reset(ALL, ["", "3,4"])
    assert fixed.tasks == ["5,4", "3,4"]
    fixed.reset(ALL, ["", ""])
    assert fixed.tasks == ["5,4", "5,4"]


def test_an_environment_without_tasks_takes_none():
    environment = make_vector("CartPole-v1", 2, seed=0)
    environment.reset(ALL, ["", ""])
    with pytest.raises(ValueError, match="takes no task"):
        environment.reset(ALL, ["", "balance"])


@pytest.mark.parametrize(
    ("env_id", "actions"),
    [
        ("Pendulum-v1", np.array([[0.0], [np.nan]], np.float32)),
        ("Pendulum-v1", np.zeros((2, 2), np.float32)),
        ("Pendulum-v1", np.zeros(2, np.int32)),
        ("CartPole-v1", np.array([0, 2])),
        ("CartPole-v1", np.array([0, -1])),
        ("CartPole-v1", np.array([0, 1, 1])),
    ],
)
def test_wrong_actions_are_refused(env_id, actions):
    environment = make_vector(env_id, 2, seed=0)
    environment.reset(ALL)
    with pytest.raises(ValueError, match=f"actions of {env_id}.*expected .*found"):
        environment.step(actions)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("Hoper-v5", 1), {}, "Hopper-v5"),
        ((ROOM, 0), {}, "rows"),
        ((ROOM, 1), {"size": 1}, "at least 2"),
        ((ROOM, 1), {"sise": 5}, "sise"),
        (("no_such_module:Env-v0", 1), {}, "no_such_module"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        make_vector(*arguments, seed=0, **options)


def test_masks_and_tasks_have_one_entry_a_row():
    environment = make_vector(ROOM, 2, seed=0)
    with pytest.raises(ValueError, match="rows"):
        environment.reset(np.ones(3, bool))
    with pytest.raises(ValueError, match="tasks"):
        environment.reset(ALL, ["0,0"])
