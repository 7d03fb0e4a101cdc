"""One episode as one RLDS record: the features and the bytes.

An RLDS episode has one step more than it has actions: the last step holds the final
observation, and its action, reward and discount mean nothing (zeros here).
`tensorflow_datasets` declares features; TensorFlow is not imported.
"""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from ring_rl.data.rlds.example import Values
from ring_rl.data.rlds.example_format import format_example
from ring_rl.types import Discrete, Episode, Spaces

_CORE = (
    "action",
    "discount",
    "is_first",
    "is_last",
    "is_terminal",
    "observation",
    "reward",
)
# tf.train.Example has float32 and int64 lists only: what fits neither goes as bytes,
# which is TFDS's own `encoding="bytes"`. Declared as a plain tensor, float64 physics
# would silently come back rounded to float32.
_AS_BYTES = (np.float64, np.uint64)
_AS_LISTS = (
    np.bool_,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.float16,
    np.float32,
)


def rlds_features(spaces: Spaces, like: Episode) -> Any:
    """The `tfds.features.FeaturesDict` of episodes in `spaces` with extras as `like`.

    An extra array named `infos/qpos` is the feature `qpos` of the nested dict `infos`.

    Raises:
      ValueError: if the name, type or shape of an extra array cannot be declared.
    """
    import tensorflow_datasets as tfds

    def tensor(shape: tuple[int, ...], dtype: Any) -> Any:
        encoding = "bytes" if np.dtype(dtype) in _AS_BYTES else "none"
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

    discrete = isinstance(spaces.action, Discrete)
    steps: dict[str, Any] = {
        "is_first": tensor((), np.bool_),
        "is_last": tensor((), np.bool_),
        "is_terminal": tensor((), np.bool_),
        "observation": tensor((spaces.observation,), np.float32),
        "action": (
            tensor((), np.int32)
            if discrete
            else tensor((spaces.action.size,), np.float32)
        ),
        "reward": tensor((), np.float32),
        "discount": tensor((), np.float32),
    }
    for name, values in like.extras.items():
        _check_extra(name, values)
        *groups, leaf = name.split("/")
        place = steps
        for group in groups:
            place = place.setdefault(group, {})
        if not isinstance(place, dict) or leaf in place:
            raise ValueError(
                f"extras {name!r}: the name of another array is part of it"
            )
        place[leaf] = tensor(values.shape[1:], values.dtype)
    return tfds.features.FeaturesDict(
        {
            "steps": tfds.features.Dataset(steps),
            "episode_id": tensor((), np.int64),
            "return": tensor((), np.float32),
            "task": tfds.features.Text(),
            "truncated": tensor((), np.bool_),
            "has_final_observation": tensor((), np.bool_),
        }
    )


def _check_extra(name: str, values: np.ndarray) -> None:
    """Refuses an extra array that would not come back as it is."""
    groups = name.split("/")
    if "" in groups or groups[0] in _CORE:
        raise ValueError(
            f"extras {name!r}: expected a name of non-empty parts between slashes, the "
            f"first none of {', '.join(_CORE)}"
        )
    if values.dtype not in _AS_LISTS + _AS_BYTES or 0 in values.shape:
        raise ValueError(
            f"extras {name!r}: expected booleans, integers or float16/32/64 in native "
            f"byte order and at least one number a step, found {values.dtype} "
            f"{list(values.shape)}"
        )


def encode_episode(episode: Episode) -> bytes:
    """The record of an episode: a serialised `tf.train.Example`.

    Built from whole arrays: TFDS's own encoder goes a step at a time.
    """
    steps = len(episode.rewards)
    position = np.arange(steps + 1)
    columns = {
        "is_first": position == 0,
        "is_last": position == steps,
        "is_terminal": (position == steps) & episode.terminated,
        "observation": np.concatenate(
            [episode.observations, episode.final_observation[None]]
        ),
        "action": _padded(episode.actions),
        "reward": _padded(episode.rewards),
        "discount": _padded(episode.discounts),
        **{name: _padded(values) for name, values in episode.extras.items()},
    }
    features: dict[str, Values] = {
        f"steps/{name}": _stored(values) for name, values in columns.items()
    }
    features["episode_id"] = _stored(np.asarray([episode.episode_id]))
    features["return"] = _stored(
        episode.rewards.sum(dtype=np.float64, keepdims=True).astype(np.float32)
    )
    features["task"] = [episode.task.encode()]
    features["truncated"] = _stored(np.asarray([episode.truncated]))
    features["has_final_observation"] = _stored(
        np.asarray([episode.has_final_observation])
    )
    return format_example(features)


def _padded(values: Shaped[np.ndarray, "steps *shape"]) -> np.ndarray:
    """`[steps+1 ...]`: the values and a zero for the step after the last action."""
    return np.concatenate([values, np.zeros_like(values[:1])])


def _stored(values: Shaped[np.ndarray, "steps *shape"]) -> np.ndarray:
    """The values as an Example has them: floats, integers, or bytes a step."""
    if values.dtype in _AS_BYTES:
        rows = np.ascontiguousarray(values).reshape(len(values), -1)
        return rows.view(np.uint8)
    stored = np.float32 if values.dtype.kind == "f" else np.int64
    return values.ravel().astype(stored)
