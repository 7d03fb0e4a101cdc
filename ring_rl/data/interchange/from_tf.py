"""Any `tf.data.Dataset` of RLDS episodes as episodes of ring_rl."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from ring_rl.data.checks import check_episode
from ring_rl.data.interchange.packages import import_tensorflow
from ring_rl.data.interchange.tf_fields import Fields, field_of, read_fields
from ring_rl.data.rlds import write_rlds
from ring_rl.data.rlds.columns import exactly
from ring_rl.types import Continuous, Discrete, Episode, Spaces

# Steps of an episode that TensorFlow puts together. No larger than most are long:
# a batch of one narrow field takes time in proportion to what it might have held.
_BLOCK_STEPS = 1 << 10
_OF_PARTS = ("episode_id", "task")  # what is true of an episode is true of its parts


def open_tf_dataset(
    dataset: Any,
    *,
    spaces: Spaces | None = None,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces of a `tf.data.Dataset` of RLDS episodes, and its episodes.

    That is what TFDS's `as_dataset`, `as_tf_dataset` and rlds's transformations of
    episodes give: dicts whose `steps` are a Dataset of dicts. Observations and actions
    that are dicts are flattened in the order of sorted names; they and rewards and
    discounts become float32, one integer as action int32, which must hold it. Other
    numbers of fixed shape become extras as they are; text and images of many sizes are
    left out. A final observation is there iff the last step says `is_last`; what did
    not end in a terminal step was truncated, unless the dataset says otherwise, as
    `as_tf_dataset`'s does. Episodes without an action are passed over.

    Args:
      dataset: finite; iterated over once more, and first, where discrete actions are
        to be counted.
      spaces: of the episodes; worked out from the dataset unless given.
      action_bounds: of continuous actions where `spaces` are not given (then -1 to 1
        unless given).
      task: replaces the episodes' own; theirs is empty where the dataset has none.

    Raises:
      ValueError: if the elements are something else; while iterating, naming the
        episode, if one breaks its contract or TensorFlow cannot make it.
      ModuleNotFoundError: if the extra `rlds` is not installed.
    """
    tf = import_tensorflow()
    fields = read_fields(tf, dataset.element_spec)
    if spaces is None:
        spaces = _infer_spaces(tf, dataset, fields, action_bounds)
    elif action_bounds is not None:
        raise ValueError(
            f"action bounds: expected none beside spaces, found {action_bounds}"
        )
    elif isinstance(spaces.action, Discrete) and not fields.discrete:
        raise ValueError(
            "element_spec: expected one integer as action, as in the spaces, found "
            f"{[str(fields.steps[part]) for part in fields.parts('action')]}"
        )
    return spaces, _episodes(tf, dataset, fields, spaces, task)


def write_from_tf_dataset(
    dataset: Any,
    directory: Path,
    *,
    name: str,
    source: str = "tf.data.Dataset",
    spaces: Spaces | None = None,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a `tf.data.Dataset` of RLDS episodes as a dataset of ring_rl.

    Arguments and errors of `open_tf_dataset` and `write_rlds`; `name` is also the task
    of episodes that have none.
    """
    spaces, episodes = open_tf_dataset(
        dataset, spaces=spaces, action_bounds=action_bounds, task=task
    )
    named = (episode._replace(task=episode.task or name) for episode in episodes)
    write_rlds(
        named,
        spaces,
        directory,
        name=name,
        source=source,
        reader="tf.data",
        overwrite=overwrite,
    )


def _infer_spaces(
    tf: Any, dataset: Any, fields: Fields, action_bounds: tuple[float, float] | None
) -> Spaces:
    """The spaces that fit the fields; discrete actions are counted."""
    observation = fields.width("observation")
    if not fields.discrete:
        low, high = action_bounds or (-1.0, 1.0)
        size = fields.width("action")
        return Spaces(observation, Continuous((low,) * size, (high,) * size))
    needed = {name: fields.steps[name] for name in ("action", "is_last")}
    only = fields._replace(steps=needed, scalars=())
    largest = 0
    for _, _, arrays in _arrays(tf, dataset, only):
        # A last step's action is none.
        actions = arrays["action"][: -1 if arrays["is_last"][-1] else None]
        largest = max(largest, int(actions.max(initial=0)))
    return Spaces(observation, Discrete(largest + 1))


def _arrays(
    tf: Any, dataset: Any, fields: Fields
) -> Iterator[tuple[int, dict[str, Any], dict[str, Shaped[np.ndarray, "rows ..."]]]]:
    """Of each episode with steps its index, its scalars, its steps' fields as arrays.

    Raises:
      ValueError: naming the episode that TensorFlow cannot make.
    """
    blocks = _blocks(tf, dataset, fields)
    for index, group in itertools.groupby(blocks, lambda block: int(block[0])):
        parts = list(group)
        arrays = {
            name: np.concatenate([steps[name] for _, _, steps in parts])
            for name in fields.steps
        }
        yield index, parts[0][1], arrays


def _blocks(tf: Any, dataset: Any, fields: Fields) -> Iterator[tuple[Any, Any, Any]]:
    """Each episode's index, scalars and some of its steps as arrays, in order.

    One dataset of blocks, all made inside TensorFlow: iterating over each episode's
    steps from Python, or reducing them to arrays, took several times as long.
    """

    def select(step: dict[str, Any]) -> dict[str, Any]:
        return {name: field_of(step, name) for name in fields.steps}

    def cut(index: Any, episode: dict[str, Any]) -> Any:
        scalars = {name: episode[name] for name in fields.scalars}
        blocks = episode["steps"].map(select).batch(_BLOCK_STEPS)
        return blocks.map(lambda steps: (index, scalars, steps))

    blocks = dataset.enumerate().flat_map(cut).as_numpy_iterator()
    where = "the first episode"
    while True:
        try:
            block = next(blocks, None)
        except tf.errors.OpError as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(
                f"{where}: expected steps that TensorFlow can make, found {reason}"
            ) from error
        if block is None:
            return
        yield block
        where = f"episode {block[0]} or the next"


def _episodes(
    tf: Any, dataset: Any, fields: Fields, spaces: Spaces, task: str | None
) -> Iterator[Episode]:
    """The episodes that have an action, checked."""
    for index, scalars, arrays in _arrays(tf, dataset, fields):
        try:
            episode = _episode(scalars, arrays, fields, spaces, index)
        except ValueError as error:
            raise ValueError(f"episode {index}: {error}") from error
        if episode is not None:
            check_episode(episode, spaces, index)
            yield episode._replace(task=episode.task if task is None else task)


def _episode(
    scalars: dict[str, Any],
    arrays: dict[str, Shaped[np.ndarray, "rows ..."]],
    fields: Fields,
    spaces: Spaces,
    index: int,
) -> Episode | None:
    """The episode of these arrays, or None where it has no action at all.

    Raises:
      ValueError: if a step other than the last says `is_last`, or a discrete action
        does not fit.
    """
    rows = len(arrays["is_last"])
    lasts = np.flatnonzero(arrays.pop("is_last").reshape(rows))
    # An episode whose recording was cut has no last step: all of its actions count.
    complete = len(lasts) > 0
    steps = rows - complete
    if not steps:
        return None
    if complete and lasts[0] != steps:
        raise ValueError(
            f"expected is_last at step {rows - 1} only, found it at {lasts[0]}"
        )
    observations = _take(arrays, fields, "observation")
    if isinstance(spaces.action, Discrete):
        try:
            actions = exactly(arrays.pop("action")[:steps], np.dtype(np.int32))
        except ValueError as error:
            raise ValueError(f"action: {error}") from error
    else:
        actions = _take(arrays, fields, "action")[:steps]
    rewards = _take(arrays, fields, "reward").reshape(rows)
    discounts = (
        _take(arrays, fields, "discount").reshape(rows)
        if fields.parts("discount")
        else np.ones_like(rewards)
    )
    terminated = bool(arrays.pop("is_terminal").reshape(rows)[-1])
    arrays.pop("is_first", None)
    final = observations[-1] if complete else np.zeros_like(observations[0])
    if not complete:  # what the whole episode said of its end is not true of a part
        scalars = {name: scalars[name] for name in scalars if name in _OF_PARTS}
    return Episode(
        observations=observations[:steps],
        actions=actions,
        rewards=rewards[:steps],
        discounts=discounts[:steps],
        final_observation=final,
        has_final_observation=bool(scalars.get("has_final_observation", complete)),
        terminated=terminated,
        truncated=bool(scalars.get("truncated", not terminated)),
        task=scalars.get("task", b"").decode(),
        episode_id=int(scalars.get("episode_id", index)),
        extras={name: values[:steps] for name, values in arrays.items()},
    )


def _take(
    arrays: dict[str, Shaped[np.ndarray, "rows ..."]], fields: Fields, field: str
) -> Float32[np.ndarray, "rows width"]:
    """Takes the arrays of a field out, and puts them side by side."""
    columns = [arrays.pop(name) for name in fields.parts(field)]
    wide = [values.reshape(len(values), -1).astype(np.float32) for values in columns]
    return np.concatenate(wide, axis=1)
