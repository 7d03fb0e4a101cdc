"""A dataset of ring_rl as the `tf.data.Dataset` of episodes that rlds works on.

TFDS does not do this itself: for array_record files `as_dataset` is not implemented.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.interchange.packages import import_tensorflow
from ring_rl.data.rlds import open_rlds
from ring_rl.data.rlds.records import rlds_features
from ring_rl.types import Episode


def as_tf_dataset(source: Path | EpisodeStore) -> Any:
    """A `tf.data.Dataset` of RLDS episodes, in TFDS's form, one episode at a time.

    An episode is a dict of `steps`, itself a Dataset of steps, and of the scalars
    `episode_id`, `return`, `task`, `truncated`, `has_final_observation`. A step has
    `is_first`, `is_last`, `is_terminal`, `observation`, `action`, `reward`, `discount`
    and the extras, one named `infos/qpos` as `qpos` in the dict `infos`. The last step
    holds the final observation; its action, reward, discount and extras are zeros.
    Types are those of the arrays: float64 physics stays float64.

    `open_tf_dataset` is the inverse. All episodes must have the extras of the first.

    Args:
      source: the folder of a dataset, read anew by every iteration, or a store.

    Raises:
      ValueError: if there is no dataset or no episode at `source`, or an extra cannot
        be declared; what `open_rlds` raises in the middle of a dataset comes wrapped
        by TensorFlow.
      ModuleNotFoundError: if the extra `rlds` is not installed.
    """
    tf = import_tensorflow()
    open_source = _opener(source)
    first = next(open_source(), None)
    if first is None:
        raise ValueError(f"{_name(source)}: expected at least one episode, found none")
    if isinstance(source, EpisodeStore):
        rlds_features(source.spaces, first)  # refuses extras that RLDS cannot hold
    signature = {
        name: tf.TensorSpec([None, *values.shape[1:]], values.dtype)
        for name, values in _columns(first).items()
    } | {
        name: tf.TensorSpec([], tf.string if isinstance(value, str) else value.dtype)
        for name, value in _scalars(first).items()
    }

    def generate() -> Iterator[dict[str, Any]]:
        for episode in open_source():
            yield _columns(episode) | _scalars(episode)

    scalars = tuple(_scalars(first))

    def nest(flat: dict[str, Any]) -> dict[str, Any]:
        episode = {name: flat.pop(name) for name in scalars}
        steps = tf.data.Dataset.from_tensor_slices(_nested(flat))
        return episode | {"steps": steps}

    flat = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return flat.map(nest)


def _name(source: Path | EpisodeStore) -> str:
    """What an error calls a source."""
    return "store" if isinstance(source, EpisodeStore) else str(source)


def _opener(source: Path | EpisodeStore) -> Callable[[], Iterator[Episode]]:
    """A function that starts to read the episodes of a source."""
    if isinstance(source, EpisodeStore):
        return lambda: map(source.episode, range(len(source)))
    directory = Path(source)
    return lambda: open_rlds(directory)[1]


def _columns(episode: Episode) -> dict[str, Shaped[np.ndarray, "rows *shape"]]:
    """`[steps+1 ...]` arrays of an RLDS episode's steps by name, as `steps/NAME`."""
    steps = len(episode.rewards)
    position = np.arange(steps + 1)
    final = episode.final_observation[None]
    columns = {
        "is_first": position == 0,
        "is_last": position == steps,
        "is_terminal": (position == steps) & episode.terminated,
        "observation": np.concatenate([episode.observations, final]),
        "action": _padded(episode.actions),
        "reward": _padded(episode.rewards),
        "discount": _padded(episode.discounts),
        **{name: _padded(values) for name, values in episode.extras.items()},
    }
    return {f"steps/{name}": values for name, values in columns.items()}


def _padded(values: Shaped[np.ndarray, "steps *shape"]) -> np.ndarray:
    """`[steps+1 ...]`: the values and a zero for the step after the last action."""
    return np.concatenate([values, np.zeros_like(values[:1])])


def _scalars(episode: Episode) -> dict[str, Any]:
    """What an RLDS episode says of itself."""
    return {
        "episode_id": np.int64(episode.episode_id),
        "return": np.float32(episode.rewards.sum(dtype=np.float64)),
        "task": episode.task,
        "truncated": np.bool_(episode.truncated),
        "has_final_observation": np.bool_(episode.has_final_observation),
    }


def _nested(columns: dict[str, Any]) -> dict[str, Any]:
    """The columns of steps, one named `steps/infos/qpos` as `qpos` in `infos`."""
    steps: dict[str, Any] = {}
    for name, values in columns.items():
        _, *groups, leaf = name.split("/")
        place = steps
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = values
    return steps
