"""Episodes from arrays of one's own, in an .npz or an HDF5 file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped

from ring_rl.data.formats.array_fields import (
    EXTRAS,
    Layout,
    check_keys,
    make_layout,
    read_integers,
)
from ring_rl.data.formats.columns import (
    Columns,
    as_float32,
    open_columns,
    read_flags,
    read_whole,
)
from ring_rl.types import Continuous, Discrete, Episode, Spaces

_BLOCK_STEPS = 1 << 16
_PER_STEP = (
    "observations",
    "actions",
    "rewards",
    "discounts",
    "next_observations",
)
_MOST_ACTIONS = 1 << 16  # discrete ones: more is a mistaken key


def open_arrays(
    path: Path,
    format: str,
    *,
    keys: dict[str, str] | None = None,
    discrete: int | None = None,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces of a file of arrays, and its episodes, some rows at a time.

    Arrays hold the steps of all episodes one after another; with `lengths`, they may
    also be `[episodes time ...]`, padded at the end of each row. Episodes are told
    apart by `lengths`, `offsets` or `starts`, else they end at `terminals`, `timeouts`
    and the end of the file. What is not said to be terminated is truncated, unless the
    array `truncated` says otherwise. float64 is rounded to float32, but in extras;
    integers must fit it exactly.

    Args:
      path: the file.
      format: `npz` or `hdf5`.
      keys: the array of each field; the fields are in `array_fields`, and
        `extras/NAME` is kept under that name. Arrays without a field are left out.
        Without `keys` arrays must have the names of fields, as an export writes them.
      discrete: number of actions; counted where there are integers of one column.
      action_bounds: of continuous actions, where the file does not say (then -1 to 1
        unless given).
      task: name of the task; the file's own, else its name without ending.

    Raises:
      ValueError: if a field is missing or not what it should be, before the first
        episode; for values that are not finite when they are reached.
    """
    path = Path(path)
    with open_columns(path, format) as columns:
        layout = make_layout(columns, check_keys(columns, keys))
        spaces = _spaces(columns, layout, discrete, action_bounds)
    return spaces, _episodes(path, format, layout, spaces, task)


def _episodes(
    path: Path, format: str, layout: Layout, spaces: Spaces, task: str | None
) -> Iterator[Episode]:
    """Reads whole episodes, as many as fit a block, and cuts the block up."""
    offsets = layout.offsets
    with open_columns(path, format) as columns:
        ids, tasks = _identities(columns, layout, path.stem, task)
        finals, known = _final_observations(columns, layout, spaces.observation)
        for first, after in _blocks(layout):
            block = _read_block(columns, layout, spaces, first, after)
            following = block.pop("next_observations", None)
            for index in range(first, after):
                start, stop = offsets[index : index + 2] - offsets[first]
                terminated = bool(layout.terminated[index])
                discounts = np.ones(stop - start, np.float32)
                discounts[-1] = not terminated
                final, has_final = finals[index], bool(known[index])
                if following is not None and not has_final:
                    final, has_final = following[stop - 1].copy(), True
                yield Episode(
                    observations=block["observations"][start:stop],
                    actions=block["actions"][start:stop],
                    rewards=block["rewards"][start:stop],
                    discounts=(
                        block["discounts"][start:stop]
                        if "discounts" in block
                        else discounts
                    ),
                    final_observation=final,
                    has_final_observation=has_final,
                    terminated=terminated,
                    truncated=bool(layout.truncated[index]),
                    task=tasks[index],
                    episode_id=int(ids[index]),
                    extras={
                        name.removeprefix(EXTRAS): block[name][start:stop]
                        for name in layout.extras
                    },
                )


def _blocks(layout: Layout) -> Iterator[tuple[int, int]]:
    """Whole episodes, as many as fit a block: the first, and the one after."""
    first = 0
    while first < len(layout.offsets) - 1:
        after = layout.block_end(first, _BLOCK_STEPS)
        yield first, after
        first = after


def _read_block(
    columns: Columns, layout: Layout, spaces: Spaces, first: int, after: int
) -> dict[str, Shaped[np.ndarray, "steps ..."]]:
    """The steps of some episodes, one after another, by the names of the fields."""
    block = {}
    for field in (*_PER_STEP, *layout.extras):
        if field in layout.keys:
            name = layout.keys[field]
            values, rows = layout.steps(columns, name, first, after)
            if field == "actions":
                values = _actions(columns, name, values, rows, spaces)
            elif field in _PER_STEP:
                values = as_float32(columns, name, values, rows)
            if field in ("rewards", "discounts"):
                values = values.reshape(len(values))
            block[field] = values
    return block


def _actions(
    columns: Columns,
    name: str,
    values: Shaped[np.ndarray, "steps ..."],
    start: int,
    spaces: Spaces,
) -> Float32[np.ndarray, "steps A"] | Int32[np.ndarray, " steps"]:
    """Actions as the space has them."""
    if isinstance(spaces.action, Continuous):
        return as_float32(columns, name, values, start).reshape(len(values), -1)
    values = values.reshape(len(values))
    with np.errstate(invalid="ignore"):  # NaN and what is too large are found below
        whole = values.astype(np.int32)
    beyond = (whole < 0) | (whole >= spaces.action.size)
    wrong = np.flatnonzero((whole != values) | beyond)
    if len(wrong):
        found = f"{values[wrong[0]]} in row {start + wrong[0]}"
        expected = f"actions from 0 to {spaces.action.size - 1}"
        raise columns.mismatch(name, expected, found)
    return whole


def _spaces(
    columns: Columns,
    layout: Layout,
    discrete: int | None,
    action_bounds: tuple[float, float] | None,
) -> Spaces:
    """The spaces: what the file says, then what the caller does, then what is seen."""
    keys = layout.keys
    name = keys["actions"]
    column = columns.column(name)
    leading = 2 if layout.padded else 1
    observation = columns.column(keys["observations"]).shape[-1]
    widths = column.shape[leading:] or (1,)
    if len(widths) != 1 or not widths[0]:
        raise columns.mismatch(name, "[steps width] or [steps]", column)
    if "action_count" in keys:
        if discrete is not None:
            raise columns.mismatch(
                keys["action_count"], "no number given beside it", discrete
            )
        counts = read_whole(columns, keys["action_count"]).reshape(-1)
        discrete = int(counts[0]) if len(counts) == 1 and counts[0] >= 1 else 0
    if discrete is None and column.dtype.kind in "iu" and widths == (1,):
        discrete = _largest(columns, layout, name) + 1
    if discrete is not None:
        if not 1 <= discrete <= _MOST_ACTIONS or widths != (1,):
            expected = f"one column of 1 to {_MOST_ACTIONS} discrete actions"
            raise columns.mismatch(name, expected, f"{discrete} in {list(widths)}")
        if action_bounds is not None:
            raise columns.mismatch(name, "no bounds of discrete ones", action_bounds)
        return Spaces(observation, Discrete(discrete))
    sides = []
    for side, bound in zip(
        ("action_low", "action_high"), action_bounds or (-1.0, 1.0), strict=True
    ):
        if side not in keys:
            sides.append((float(bound),) * widths[0])
            continue
        values = read_whole(columns, keys[side])
        if values.shape != widths or action_bounds is not None:
            found = f"{list(values.shape)}, and bounds {action_bounds} beside them"
            expected = f"{list(widths)} numbers and no other bounds"
            raise columns.mismatch(keys[side], expected, found)
        sides.append(tuple(map(float, as_float32(columns, keys[side], values, 0))))
    if not all(low < high for low, high in zip(*sides, strict=True)):
        raise columns.mismatch(name, "bounds low < high", f"{sides[0]} and {sides[1]}")
    return Spaces(observation, Continuous(*sides))


def _largest(columns: Columns, layout: Layout, name: str) -> int:
    """The largest of the steps' integers, padding not counted, seen in one pass."""
    return max(
        int(layout.steps(columns, name, first, after)[0].max())
        for first, after in _blocks(layout)
    )


def _identities(
    columns: Columns, layout: Layout, default: str, task: str | None
) -> tuple[Int64[np.ndarray, " episodes"], list[str]]:
    """The id and the task of every episode."""
    episodes = len(layout.offsets) - 1
    ids = np.arange(episodes)
    if "episode_ids" in layout.keys:
        ids = read_integers(columns, layout.keys["episode_ids"])
    if task is not None or "tasks" not in layout.keys:
        return ids, [task or default] * episodes
    name = layout.keys["tasks"]
    names = read_whole(columns, name).reshape(episodes)
    if names.dtype.kind == "S":
        try:
            names = np.char.decode(names, "utf-8")
        except UnicodeDecodeError as error:
            raise columns.mismatch(name, "UTF-8 text", "other bytes") from error
    return ids, [str(one) or default for one in names]


def _final_observations(
    columns: Columns, layout: Layout, width: int
) -> tuple[Float32[np.ndarray, "episodes O"], Bool[np.ndarray, " episodes"]]:
    """What was seen after every episode's last action, zeros where it is not known."""
    keys, episodes = layout.keys, len(layout.offsets) - 1
    if "final_observations" not in keys:
        return np.zeros((episodes, width), np.float32), np.zeros(episodes, bool)
    name = keys["final_observations"]
    finals = as_float32(columns, name, read_whole(columns, name), 0)
    if "has_final_observation" not in keys:
        return finals, np.ones(episodes, bool)
    return finals, read_flags(columns, keys["has_final_observation"])
