"""An RLDS record read back as an episode, whoever wrote it.

Others nest observations and actions in dictionaries, and write neither tasks nor what
ended an episode.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from ring_rl.data.rlds.columns import decode_column, exactly
from ring_rl.data.rlds.example import Values
from ring_rl.data.rlds.layout import Layout
from ring_rl.data.rlds.tfds_files import Feature
from ring_rl.types import Episode


def action_names(layout: Layout) -> frozenset[str]:
    """The names in a record of what `largest_action` looks at."""
    return frozenset(f"steps/{name}" for name in (*layout.action, "is_last"))


def largest_action(record: dict[str, Values], layout: Layout) -> int:
    """The largest of a record's discrete actions, -1 if there is none.

    Raises:
      ValueError: naming the feature that is not as declared.
    """
    ((name, feature),) = layout.action.items()
    actions = _column(record, name, feature).reshape(-1)
    is_last = _column(record, "is_last", layout.scalars["is_last"]).reshape(-1)
    if len(is_last) == len(actions) and len(actions) and is_last[-1]:
        actions = actions[:-1]
    return int(actions.max(initial=-1))


def decode_episode(
    record: dict[str, Values], layout: Layout, index: int
) -> Episode | None:
    """The episode of a record, or None where it has no action at all.

    Flags that only ring_rl writes are worked out where they are missing: a final
    observation is there iff the last step says `is_last`; what did not end in a
    terminal step was truncated. `task` is then empty, `episode_id` the index.

    Args:
      record: as `parse_example` gives it.
      layout: of the dataset.
      index: of the record in the dataset.

    Raises:
      ValueError: if a step other than the last says `is_last`, or a field is missing
        or not as declared.
    """
    scalars = {
        name: _column(record, name, feature).reshape(-1)
        for name, feature in layout.scalars.items()
    }
    is_last = scalars["is_last"].astype(bool)
    rows = len(is_last)
    if is_last[:-1].any():
        raise ValueError(
            f"expected is_last at step {rows - 1} only, found it at "
            f"{np.flatnonzero(is_last)[0]}"
        )
    # An episode whose recording was cut has no last step: all of its actions count.
    complete = bool(rows and is_last[-1])
    steps = rows - complete
    if not steps:
        return None
    for name, values in scalars.items():
        if len(values) != rows:
            raise _other_length(name, rows, len(values))
    observations = _joined(record, layout.observation, rows)
    if layout.discrete:
        ((name, feature),) = layout.action.items()
        column = _column(record, name, feature, rows).reshape(rows)[:steps]
        actions = _naming(name, exactly, column, np.dtype(np.int32))
    else:
        actions = _joined(record, layout.action, rows)[:steps]
    rewards = scalars["reward"][:steps]
    discounts = scalars.get("discount", np.ones(rows, np.float32))[:steps]
    terminated = bool(scalars["is_terminal"][-1])
    truncated = _integer(record, "truncated")
    has_final = _integer(record, "has_final_observation")
    identity = _integer(record, "episode_id")
    return Episode(
        observations=observations[:steps],
        actions=actions,
        rewards=_float32(rewards),
        discounts=_float32(discounts),
        final_observation=(
            observations[-1] if complete else np.zeros_like(observations[0])
        ),
        has_final_observation=complete if has_final is None else bool(has_final),
        terminated=terminated,
        truncated=not terminated if truncated is None else bool(truncated),
        task=_text(record, "task"),
        episode_id=index if identity is None else identity,
        extras={
            name: _column(record, name, feature, rows)[:steps]
            for name, feature in layout.extras.items()
        },
    )


def _column(
    record: dict[str, Values], name: str, feature: Feature, rows: int | None = None
) -> Shaped[np.ndarray, "rows *shape"]:
    """The column of a step feature, of so many rows if that is known."""
    values = _naming(name, decode_column, record.get(f"steps/{name}"), feature)
    if rows is not None and len(values) != rows:
        raise _other_length(name, rows, len(values))
    return values


def _joined(
    record: dict[str, Values], parts: dict[str, Feature], rows: int
) -> Float32[np.ndarray, "rows width"]:
    """The columns of several features side by side, each flattened."""
    columns = [
        _float32(_column(record, name, feature, rows)).reshape(rows, -1)
        for name, feature in parts.items()
    ]
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def _float32(
    values: Shaped[np.ndarray, "*shape"],
) -> Float32[np.ndarray, "*shape"]:
    """Any numbers as float32, rounded; infinite where they are too large."""
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _naming(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function; its error names the step feature."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"steps/{name}: {error}") from error


def _other_length(name: str, rows: int, found: int) -> ValueError:
    """The error about a column that does not fit the others."""
    return ValueError(
        f"steps/{name}: expected {rows} rows as in is_last, found {found}"
    )


def _integer(record: dict[str, Values], name: str) -> int | None:
    """An integer of the episode, None where there is no such thing."""
    values = record.get(name)
    if isinstance(values, list) or values is None:
        return None
    return int(values[0]) if values.dtype == np.int64 and len(values) == 1 else None


def _text(record: dict[str, Values], name: str) -> str:
    """A text of the episode, empty where there is no such thing."""
    values = record.get(name)
    if isinstance(values, list) or values is None:
        return ""
    if values.dtype != np.uint8 or len(values) != 1:
        return ""
    try:
        return values.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: expected UTF-8, found {values[:100]}") from error
