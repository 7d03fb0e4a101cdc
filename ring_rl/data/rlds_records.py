"""One episode as one RLDS record: the features, the bytes, and back.

An RLDS episode has one step more than it has actions: the last step holds the final
observation, and its action, reward and discount mean nothing (zeros here).
`tensorflow_datasets` declares features; TensorFlow is not imported.
"""

from typing import Any

import numpy as np
from jaxtyping import Shaped

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

    Built from whole arrays: TFDS's own encoder goes a step at a time, and wrote 37k
    steps/s where this wrote 250k.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    example_proto: Any = tf_example_pb2
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
    feature = {f"steps/{name}": _feature(values) for name, values in columns.items()}
    feature["episode_id"] = _feature(np.asarray([episode.episode_id]))
    feature["return"] = _feature(
        episode.rewards.sum(dtype=np.float64, keepdims=True).astype(np.float32)
    )
    feature["task"] = _bytes_feature([episode.task.encode()])
    feature["truncated"] = _feature(np.asarray([episode.truncated]))
    feature["has_final_observation"] = _feature(
        np.asarray([episode.has_final_observation])
    )
    example = example_proto.Example(features=_protobufs().Features(feature=feature))
    # Maps have no order: without this the same episode may have other bytes.
    return example.SerializeToString(deterministic=True)


def _padded(values: Shaped[np.ndarray, "steps *shape"]) -> np.ndarray:
    """`[steps+1 ...]`: the values and a zero for the step after the last action."""
    return np.concatenate([values, np.zeros_like(values[:1])])


def _feature(values: Shaped[np.ndarray, "steps *shape"]) -> Any:
    """The values as a `tf.train.Feature`: floats, integers, or bytes a step."""
    if values.dtype in _AS_BYTES:
        rows = np.ascontiguousarray(values).reshape(len(values), -1)
        # A view as untyped items of one row each: their list is bytes objects.
        return _bytes_feature(rows.view(f"V{rows[0].nbytes}").ravel().tolist())
    proto = _protobufs()
    if values.dtype.kind == "f":
        floats = proto.FloatList(value=values.ravel().tolist())
        return proto.Feature(float_list=floats)
    integers = proto.Int64List(value=values.ravel().astype(np.int64).tolist())
    return proto.Feature(int64_list=integers)


def _bytes_feature(rows: list[bytes]) -> Any:
    """The rows as a `tf.train.Feature`."""
    proto = _protobufs()
    return proto.Feature(bytes_list=proto.BytesList(value=rows))


def _protobufs() -> Any:
    """The protobuf module of `Feature` and its lists, TFDS's own copy of `tf.train`."""
    from tensorflow_datasets.proto import tf_feature_pb2

    return tf_feature_pb2


def decode_steps(
    steps: dict[str, Any], features: dict[str, Any]
) -> dict[str, Shaped[np.ndarray, "steps *shape"]]:
    """The arrays of a record read with `SkipDecoding`, by the names of `features`."""
    arrays = {}
    for name, feature in features.items():
        values: Any = steps
        for part in name.split("/"):
            values = values[part]
        if values.dtype == object:
            if feature.to_json_content().encoding == "bytes":
                flat = np.frombuffer(b"".join(values), feature.np_dtype)
                values = flat.reshape(len(values), *feature.shape)
            else:  # compressed, by others
                values = feature.decode_example_np(values)
        arrays[name] = np.asarray(values)
    return arrays


def decode_episode(
    record: dict[str, Any], features: dict[str, Any], spaces: Spaces, index: int
) -> Episode | None:
    """The episode of a record, or None where it has no action at all.

    Flags that only ring_rl writes are worked out where they are missing: a final
    observation is there iff the last step says `is_last`; what did not end in a
    terminal step was truncated. `task` is then empty, `episode_id` the index.

    Raises:
      ValueError: if a step other than the last says `is_last`, or a field is missing.
    """
    arrays = decode_steps(record["steps"], features)
    is_last = arrays.pop("is_last")
    if is_last[:-1].any():
        raise ValueError(
            f"expected is_last at step {len(is_last) - 1} only, found it at "
            f"{np.flatnonzero(is_last)[0]}"
        )
    # An episode whose recording was cut has no last step: all of its actions count.
    complete = bool(is_last[-1])
    steps = len(is_last) - complete
    if not steps:
        return None
    observations = arrays.pop("observation").astype(np.float32, copy=False)
    discrete = isinstance(spaces.action, Discrete)
    actions = arrays.pop("action").astype(
        np.int32 if discrete else np.float32, copy=False
    )
    rewards = arrays.pop("reward").astype(np.float32, copy=False)
    discounts = arrays.pop("discount", np.ones_like(rewards))
    terminated = bool(arrays.pop("is_terminal")[-1])
    arrays.pop("is_first", None)
    identity = record.get("episode_id")  # text in some datasets
    final = observations[-1] if complete else np.zeros_like(observations[0])
    return Episode(
        observations=observations[:steps],
        actions=actions[:steps],
        rewards=rewards[:steps].reshape(steps),
        discounts=discounts[:steps].reshape(steps).astype(np.float32, copy=False),
        final_observation=final,
        has_final_observation=bool(record.get("has_final_observation", complete)),
        terminated=terminated,
        truncated=bool(record.get("truncated", not terminated)),
        task=_text(record.get("task", b"")),
        episode_id=identity if isinstance(identity, int) else index,
        extras={name: values[:steps] for name, values in arrays.items()},
    )


def _text(value: str | bytes) -> str:
    """Text that TFDS gives as UTF-8 bytes."""
    return value.decode() if isinstance(value, bytes) else value
