"""Datasets of others from TensorFlow, and what is none.

`test_interchange.py` runs this in a process with TensorFlow.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tf_episodes import SPACES, episode, map_steps, raises, written

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.interchange.from_tf import open_tf_dataset, write_from_tf_dataset
from ring_rl.data.interchange.packages import import_tensorflow
from ring_rl.data.interchange.to_tf import as_tf_dataset
from ring_rl.data.rlds import read_rlds
from ring_rl.types import Continuous, Spaces

tf = import_tensorflow()


def foreign(**changed: Any) -> Any:
    """A dataset as others make them: nested, wide, with text and images."""

    def steps(count: int) -> Iterator[dict[str, Any]]:
        for step in range(count):
            yield {
                "is_last": step == count - 1,
                "is_terminal": count % 2 and step == count - 1,
                "observation": {
                    "wrist": {"angle": np.float64(step)},
                    "arm": np.full((2, 2), -step, np.int16),
                    "camera": np.zeros((count, 2, 3), np.uint8),
                },
                "action": {"turn": [0.5], "grip": [step, 0.25]},
                "reward": np.float64(step),
                "note": "text",
                "mass": step + 1e-12,
            } | {name: make(step) for name, make in changed.items()}

    spec: dict[str, Any] = {
        "is_last": tf.TensorSpec([], tf.bool),
        "is_terminal": tf.TensorSpec([], tf.bool),
        "observation": {
            "wrist": {"angle": tf.TensorSpec([], tf.float64)},
            "arm": tf.TensorSpec([2, 2], tf.int16),
            "camera": tf.TensorSpec([None, 2, 3], tf.uint8),
        },
        "action": {"turn": tf.TensorSpec([1]), "grip": tf.TensorSpec([2])},
        "reward": tf.TensorSpec([], tf.float64),
        "note": tf.TensorSpec([], tf.string),
        "mass": tf.TensorSpec([], tf.float64),
    }

    def whole(count: Any) -> dict[str, Any]:
        return {
            "steps": tf.data.Dataset.from_generator(
                steps, args=(count,), output_signature=spec
            )
        }

    return tf.data.Dataset.from_tensor_slices([4, 0, 1, 3, 2]).map(whole)


def check_a_dataset_of_others(folder: Path) -> None:
    spaces, episodes = open_tf_dataset(foreign(), action_bounds=(-3.0, 3.0))
    assert spaces == Spaces(5, Continuous((-3.0,) * 3, (3.0,) * 3))
    first, second, third = episodes  # those of no or one step have no action
    assert [len(each.rewards) for each in (first, second, third)] == [3, 2, 1]
    assert [each.episode_id for each in (first, second, third)] == [0, 3, 4]
    assert (second.terminated, second.truncated) == (True, False)
    assert (third.terminated, third.truncated) == (False, True)
    # arm before wrist, grip before turn.
    np.testing.assert_array_equal(first.observations[2], [-2, -2, -2, -2, 2])
    np.testing.assert_array_equal(first.final_observation, [-3, -3, -3, -3, 3])
    np.testing.assert_array_equal(first.actions[2], [2, 0.25, 0.5])
    np.testing.assert_array_equal(first.discounts, np.ones(3, np.float32))
    assert first.rewards.dtype == first.observations.dtype == np.float32
    np.testing.assert_array_equal(first.extras["mass"], np.arange(3) + 1e-12)
    assert first.extras.keys() == {"mass"} and first.task == ""
    write_from_tf_dataset(foreign(), folder / "theirs", name="arm")
    assert set(read_rlds(folder / "theirs").tasks) == {"arm"}
    _, named = open_tf_dataset(foreign(), task="lift")
    assert next(named).task == "lift"


def check_what_is_no_dataset_of_episodes(folder: Path) -> None:
    with raises("element_spec: expected episodes, dicts with 'steps' a Dataset"):
        open_tf_dataset(tf.data.Dataset.range(3))
    with raises("expected the numeric step field 'reward' of fixed shape, found"):
        text = {"reward": "good"}
        open_tf_dataset(
            map_steps(foreign(), lambda steps: steps.map(lambda step: step | text))
        )
    with raises("expected one number a step as reward, found 4"):
        wide = {"reward": [0.0] * 4}
        open_tf_dataset(
            map_steps(foreign(), lambda steps: steps.map(lambda step: step | wide))
        )
    dataset = as_tf_dataset(written(folder, [episode(3), episode(2)]))
    with raises("expected none beside spaces"):
        open_tf_dataset(dataset, spaces=SPACES, action_bounds=(-1.0, 1.0))

    def change(**fields: Any) -> Any:
        replaced = {name: tf.constant(value) for name, value in fields.items()}
        return map_steps(
            dataset, lambda steps: steps.map(lambda step: {**step, **replaced})
        )

    with raises("episode 0: expected is_last at step 3 only, found it at 0"):
        list(open_tf_dataset(change(is_last=True))[1])
    with raises("episode 0, rewards: expected finite numbers, found nan"):
        list(open_tf_dataset(change(reward=float("nan")))[1])
    with raises("episode 0, observations: expected [3, 3] float32"):
        list(open_tf_dataset(change(observation=[1.0]), spaces=SPACES)[1])

    def fail(step: dict[str, Any]) -> dict[str, Any]:
        message = tf.debugging.Assert(step["reward"] > 99, ["no such reward"])
        with tf.control_dependencies([message]):
            return {**step, "reward": tf.identity(step["reward"])}

    failing = map_steps(dataset, lambda steps: steps.map(fail))
    with raises("the first episode: expected steps that TensorFlow can make, found In"):
        list(open_tf_dataset(failing)[1])
    with raises("store: expected at least one episode, found none"):
        as_tf_dataset(EpisodeStore.from_episodes([episode(2)], SPACES).select([]))
    clash = episode(2, extras={"x": np.zeros(2), "x/y": np.zeros(2)})
    with raises("extras 'x/y': the name of another array is part of it"):
        as_tf_dataset(EpisodeStore.from_episodes([clash], SPACES))
    with raises("element_spec: expected field names without slashes, found 'a/b'"):
        open_tf_dataset(
            map_steps(
                dataset, lambda steps: steps.map(lambda step: {**step, "a/b": 1.0})
            )
        )


def check_nothing_of_a_failure_is_left(folder: Path) -> None:
    dataset = as_tf_dataset(written(folder, [episode(3)]))
    bad = map_steps(
        dataset,
        lambda steps: steps.map(lambda step: {**step, "reward": step["reward"] / 0.0}),
    )
    with raises("episode 0, rewards: expected finite"):
        write_from_tf_dataset(bad, folder / "deep" / "theirs", name="bad")
    assert [path.name for path in folder.iterdir()] == ["ours"]
