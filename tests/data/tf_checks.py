"""Datasets of ours to TensorFlow and back.

`test_interchange.py` runs this in a process with TensorFlow.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tf_episodes import SPACES, episode, map_steps, raises, written

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.interchange.from_tf import open_tf_dataset, write_from_tf_dataset
from ring_rl.data.interchange.packages import import_rlds, import_tensorflow
from ring_rl.data.interchange.to_tf import as_tf_dataset
from ring_rl.data.rlds import read_rlds
from ring_rl.types import Discrete, Episode, Spaces

tf = import_tensorflow()
TYPES = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()


def any_bits(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Largest integers, infinities, not-a-numbers with a payload, -0."""
    random = np.random.default_rng(seed)
    if dtype == "?":
        return random.integers(2, size=shape).astype(bool)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(random.bytes(count), dtype).reshape(shape)


def assert_same(left: Episode, right: Episode) -> None:
    """Every field equal, bit for bit and type for type."""
    for name, value in left._asdict().items():
        other = getattr(right, name)
        assert type(value) is type(other), name
        if name == "extras":
            assert value.keys() == other.keys()
        pairs = (
            [(value[key], other[key]) for key in value]
            if name == "extras"
            else [(value, other)]
        )
        for first, second in pairs:
            if isinstance(first, np.ndarray):
                assert (first.dtype, first.shape) == (second.dtype, second.shape), name
                assert first.tobytes() == second.tobytes(), name
            else:
                assert first == second, name


def steps_of(dataset: Any) -> list[list[dict[str, Any]]]:
    """The steps of each episode, as NumPy."""
    return [list(element["steps"].as_numpy_iterator()) for element in dataset]


def check_a_round_trip_changes_no_bit(folder: Path) -> None:
    episodes = []
    for index, steps in enumerate((1, 5, 2, 2100, 1023, 1, 1024, 2)):
        flags = [bool(index & bit) for bit in (1, 2, 4)]
        extras = {
            f"infos/{dtype[0]}/{dtype}": any_bits(dtype, (steps, 2, 3), index)
            for dtype in TYPES
        }
        has_final = flags[2]
        made = episode(
            steps,
            index,
            terminated=flags[0],
            truncated=flags[1],
            has_final_observation=has_final,
            task="ünï ✓" if index % 3 else "reach",
            episode_id=(-(2**63), 2**63 - 1, 7)[index % 3],
            extras={**extras, "physics": any_bits("f8", (steps,), index)},
        )
        if not has_final:
            made = made._replace(final_observation=np.zeros(3, np.float32))
        episodes.append(made)
    store = EpisodeStore.from_episodes(episodes, SPACES)
    spaces, back = open_tf_dataset(as_tf_dataset(store), spaces=SPACES)
    assert spaces == SPACES
    for made, other in zip(episodes, back, strict=True):
        assert_same(made, other)
    # The same over files, whose protobufs quieten signalling not-a-numbers.
    ours = written(folder, episodes)
    theirs = folder / "theirs"
    write_from_tf_dataset(as_tf_dataset(ours), theirs, name="Reach", spaces=SPACES)
    left, right = read_rlds(ours), read_rlds(theirs)
    assert left.spaces == right.spaces == SPACES
    for index in range(len(episodes)):
        assert_same(left.episode(index), right.episode(index))
    (ours_file,) = ours.glob("*array_record*")
    (theirs_file,) = theirs.glob("*array_record*")
    assert ours_file.read_bytes() == theirs_file.read_bytes()


def check_discrete_actions_and_a_store(folder: Path) -> None:
    spaces = Spaces(3, Discrete(6))
    episodes = [
        episode(steps, index, actions=np.arange(steps, dtype=np.int32))
        for index, steps in enumerate((4, 6))
    ]
    store = EpisodeStore.from_episodes(episodes, spaces)
    found, back = open_tf_dataset(as_tf_dataset(store))
    assert found == spaces  # the largest action is 5
    for made, other in zip(episodes, back, strict=True):
        assert_same(made, other)
    with raises("expected one integer as action"):
        open_tf_dataset(as_tf_dataset(written(folder, [episode(2)])), spaces=spaces)


def check_the_action_of_the_last_step_is_not_counted(folder: Path) -> None:
    spaces = Spaces(3, Discrete(6))
    actions = np.arange(4, dtype=np.int32)
    store = EpisodeStore.from_episodes([episode(4, actions=actions)], spaces)

    def change(step: dict[str, Any]) -> dict[str, Any]:
        action = tf.where(
            step["is_last"], tf.int64.max, tf.cast(step["action"], "int64")
        )
        return {**step, "action": action}

    dataset = map_steps(as_tf_dataset(store), lambda steps: steps.map(change))
    found, (back,) = open_tf_dataset(dataset)
    assert found == Spaces(3, Discrete(4))
    np.testing.assert_array_equal(back.actions, actions, strict=True)


def check_actions_that_do_not_fit_are_refused(folder: Path) -> None:
    spaces = Spaces(3, Discrete(6))
    actions = np.arange(4, dtype=np.int32)
    store = EpisodeStore.from_episodes([episode(4, actions=actions)], spaces)

    def change(step: dict[str, Any]) -> dict[str, Any]:
        return {**step, "action": tf.cast(step["action"], "int64") + 2**32}

    dataset = map_steps(as_tf_dataset(store), lambda steps: steps.map(change))
    for given in (spaces, None):
        with raises("episode 0: action: expected int32 numbers, found 4294967296"):
            list(open_tf_dataset(dataset, spaces=given)[1])


def check_it_is_rlds_in_the_form_of_tfds(folder: Path) -> None:
    made = episode(3, 1)
    directory = written(folder, [made, episode(2, 2, has_final_observation=False)])
    dataset = as_tf_dataset(directory)
    rlds = import_rlds()
    assert set(dataset.element_spec) == {
        *("steps", "episode_id", "return", "task", "truncated"),
        "has_final_observation",
    }
    step = dataset.element_spec["steps"].element_spec
    assert set(rlds.CORE_STEP_FIELDS) <= set(step)
    assert step["infos"]["qpos"] == tf.TensorSpec([4], tf.float64)
    assert step["observation"] == tf.TensorSpec([3], tf.float32)
    first, second = steps_of(dataset)
    assert [bool(step["is_first"]) for step in first] == [True, False, False, False]
    assert [bool(step["is_last"]) for step in first] == [False, False, False, True]
    assert [bool(step["is_terminal"]) for step in first] == [False] * 3 + [True]
    assert not second[-1]["is_terminal"]
    observations = np.stack([step["observation"] for step in first])
    whole = np.concatenate([made.observations, made.final_observation[None]])
    np.testing.assert_array_equal(observations, whole)
    assert [float(step["reward"]) for step in first] == [*made.rewards.tolist(), 0]


def check_transformations_of_rlds_work_on_it(folder: Path) -> None:
    rlds = import_rlds().transformations
    episodes = [episode(steps, index) for index, steps in enumerate((5, 3, 9))]
    dataset = as_tf_dataset(written(folder, episodes))
    lengths = [int(rlds.episode_length(element["steps"])) for element in dataset]
    assert lengths == [6, 4, 10]
    last = rlds.final_step(next(iter(dataset))["steps"])
    np.testing.assert_array_equal(last["observation"], episodes[0].final_observation)
    total = rlds.sum_nested_steps(dataset, lambda step: step["reward"])
    returns = sum(made.rewards.sum(dtype=np.float64) for made in episodes)
    np.testing.assert_allclose(float(total), returns, rtol=1e-5)  # added up as float32

    def double(step: dict[str, Any]) -> dict[str, Any]:
        return {**step, "reward": 2 * step["reward"]}

    doubled = rlds.map_nested_steps(dataset, double)
    _, back = open_tf_dataset(doubled, spaces=SPACES)
    for made, other in zip(episodes, back, strict=True):
        assert_same(made._replace(rewards=2 * made.rewards), other)
    # The part of an episode has another end than the whole, and says so.
    parts = map_steps(dataset, lambda steps: steps.take(3))
    _, back = open_tf_dataset(parts, spaces=SPACES)
    for made, other in zip(episodes, back, strict=True):
        assert len(other.rewards) == 3
        np.testing.assert_array_equal(other.rewards, made.rewards[:3])
        assert (other.terminated, other.truncated) == (False, True)
        assert not other.has_final_observation
    windows = map_steps(dataset, lambda steps: rlds.batch(steps, size=2, shift=1))
    for made, pairs in zip(episodes, steps_of(windows), strict=True):
        first = np.stack(
            [pair["observation"][0] for pair in pairs[: len(made.rewards)]]
        )
        np.testing.assert_array_equal(first, made.observations)
    early = map_steps(
        dataset,
        lambda steps: rlds.truncate_after_condition(
            steps, lambda step: step["reward"] > 0.5
        ),
    )
    for made, steps in zip(episodes, steps_of(early), strict=True):
        above = np.flatnonzero(np.append(made.rewards, 1) > 0.5)
        assert len(steps) == min(above[0] + 1, len(made.rewards) + 1)


def check_patterns_say_that_reverb_is_missing(folder: Path) -> None:
    rlds = import_rlds()
    dataset = as_tf_dataset(written(folder, [episode(2)]))
    try:
        rlds.transformations.pattern_map(dataset, [])
    except ModuleNotFoundError as error:
        assert "reverb is not installed" in str(error)
    else:
        raise AssertionError("expected ModuleNotFoundError, found none")
