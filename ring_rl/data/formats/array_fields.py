"""What the arrays of a file of one's own may mean, and checks of their shapes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from ring_rl.data.formats.columns import Column, Columns, read_flags, read_whole

STEP_FIELDS = {
    "observations": "[steps width], what was seen before each action",
    "actions": "[steps width], or [steps] or [steps 1] integers for discrete ones",
    "rewards": "[steps]",
    "discounts": "[steps], 1 but 0 where the task ended an episode unless given",
    "next_observations": "[steps width], used after each episode's last action",
    "terminals": "[steps], 1 where the task ended an episode",
    "timeouts": "[steps], 1 where a time limit did",
    "starts": "[steps], 1 at each episode's first step",
}
EPISODE_FIELDS = {
    "lengths": "[episodes], steps of each",
    "offsets": "[episodes + 1], first step of each, from 0, and the number of steps",
    "final_observations": "[episodes width], what was seen after the last action",
    "has_final_observation": "[episodes], 0 where the former is not known",
    "terminated": "[episodes], 1 where the task ended the episode",
    "truncated": "[episodes], 1 where a time limit or the recording's end did",
    "tasks": "[episodes] names",
    "episode_ids": "[episodes] integers",
}
SPACE_FIELDS = {
    "action_low": "[width] of actions",
    "action_high": "[width] of actions",
    "action_count": "[1], number of discrete actions",
}
EXTRAS = "extras/"
_REQUIRED = ("observations", "actions", "rewards")
_BOUNDARIES = ("lengths", "offsets", "starts")
_KINDS = {"tasks": "US", "lengths": "iu", "offsets": "iu", "episode_ids": "iu"}


class Layout(NamedTuple):
    """Which array is what, and where the episodes lie.

    Arrays of steps are `[steps ...]`, episodes one after another; or, if `time` is not
    0, `[episodes time ...]`, and an episode has the first of its row's entries.
    """

    keys: dict[str, str]
    time: int
    offsets: Int64[np.ndarray, " episodes+1"]
    terminated: Bool[np.ndarray, " episodes"]
    truncated: Bool[np.ndarray, " episodes"]

    @property
    def padded(self) -> bool:
        """Whether arrays of steps have a row an episode."""
        return self.time > 0

    @property
    def extras(self) -> tuple[str, ...]:
        """The fields of `keys` that are further arrays."""
        return tuple(sorted(name for name in self.keys if name.startswith(EXTRAS)))

    def block_end(self, first: int, steps: int) -> int:
        """The episode after those from `first` that make a block of so many steps."""
        last = self.offsets[first] + steps
        after = int(np.searchsorted(self.offsets, last, side="right")) - 1
        if self.padded:  # whose rows are read with their padding
            after = min(after, first + max(1, steps // self.time))
        return max(after, first + 1)

    def steps(
        self, columns: Columns, name: str, first: int, after: int
    ) -> tuple[Shaped[np.ndarray, "steps ..."], int]:
        """The steps of some episodes, without padding, and the first step's row."""
        if not self.padded:
            start, stop = int(self.offsets[first]), int(self.offsets[after])
            return columns.rows(name, start, stop), start
        lengths = np.diff(self.offsets[first : after + 1])
        real = np.arange(self.time) < lengths[:, None]
        return columns.rows(name, first, after)[real], int(self.offsets[first])


def check_keys(columns: Columns, keys: dict[str, str] | None) -> dict[str, str]:
    """The array of each field; without `keys`, arrays are named after their fields.

    Raises:
      ValueError: for a field that there is not, or one that is needed and missing.
    """
    found = keys or {name: name for name in columns.names()}
    known = STEP_FIELDS | EPISODE_FIELDS | SPACE_FIELDS
    for field, name in found.items():
        if field not in known and not (field.startswith(EXTRAS) and field != EXTRAS):
            expected = f"one of {', '.join(known)} or {EXTRAS}NAME"
            if keys:
                raise ValueError(f"keys: expected {expected}, found {field!r}")
            raise columns.mismatch(name, f"{expected}, or keys that name it", "neither")
    for field in _REQUIRED:
        if field not in found:
            what = f"only {', '.join(sorted(found))}"
            raise columns.mismatch(field, "an array, or a key that names it", what)
    boundaries = [field for field in _BOUNDARIES if field in found]
    flags = [field for field in ("terminals", "timeouts") if field in found]
    if len(boundaries) > 1 or not boundaries + flags:
        raise columns.mismatch(
            "keys",
            "one of lengths, offsets and starts, or terminals or timeouts",
            ", ".join(boundaries) or "none",
        )
    return found


def make_layout(columns: Columns, keys: dict[str, str]) -> Layout:
    """Checks the shapes and types of all fields and finds the episodes.

    Raises:
      ValueError: naming the array that is not what its field says.
    """
    rewards = columns.column(keys["rewards"])
    wide = columns.column(keys["observations"])
    padded = "lengths" in keys and len(wide.shape) == 3
    leading = wide.shape[: 2 if padded else 1]
    if 0 in wide.shape or len(wide.shape) != (3 if padded else 2):
        raise columns.mismatch(keys["observations"], "[steps width] numbers", wide)
    if rewards.shape not in (leading, (*leading, 1)):
        expected = f"{list(leading)} numbers as observations have"
        raise columns.mismatch(keys["rewards"], expected, rewards)
    for field, name in keys.items():
        column = columns.column(name)
        per_step = field in STEP_FIELDS or field.startswith(EXTRAS)
        if column.dtype.kind not in _KINDS.get(field, "biuf"):
            raise columns.mismatch(name, f"{field} of another type", column)
        if per_step and column.shape[: len(leading)] != leading:
            expected = f"{list(leading)} ... as observations have"
            raise columns.mismatch(name, expected, column)
        if not per_step and len(column.shape) < 1:
            raise columns.mismatch(name, "one axis at least", column)
    for field in ("rewards", "discounts", "terminals", "timeouts", "starts"):
        column = columns.column(keys[field]) if field in keys else rewards
        if column.shape not in (leading, (*leading, 1)):
            raise columns.mismatch(keys[field], f"{list(leading)} numbers", column)
    following = columns.column(keys.get("next_observations", keys["observations"]))
    if following.shape != wide.shape:
        expected = f"{list(wide.shape)} as observations"
        raise columns.mismatch(keys["next_observations"], expected, following)
    offsets = _offsets(columns, keys, leading, padded)
    _check_episode_fields(columns, keys, len(offsets) - 1, wide)
    return _with_endings(columns, keys, leading[1] if padded else 0, offsets)


def _offsets(
    columns: Columns, keys: dict[str, str], leading: tuple[int, ...], padded: bool
) -> Int64[np.ndarray, " bounds"]:
    """`[episodes+1]` offsets of the episodes' steps, padding not counted."""
    steps = leading[0]
    if "lengths" in keys:
        name = keys["lengths"]
        lengths = read_integers(columns, name)
        most = leading[1] if padded else steps
        if padded and len(lengths) != leading[0]:
            found = f"{len(lengths)}"
            raise columns.mismatch(name, f"{leading[0]} lengths, one a row", found)
        if not len(lengths) or lengths.min() < 1 or lengths.max() > most:
            wrong = np.flatnonzero((lengths < 1) | (lengths > most))
            found = f"{lengths[wrong[0]]} in row {wrong[0]}" if len(wrong) else "none"
            raise columns.mismatch(name, f"lengths from 1 to {most}", found)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        if not padded and offsets[-1] != steps:
            expected = f"lengths of {steps} steps together"
            raise columns.mismatch(name, expected, offsets[-1])
        return offsets
    if "offsets" in keys:
        name = keys["offsets"]
        offsets = read_integers(columns, name)
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != steps:
            found = f"{len(offsets)} from {offsets[:1]} to {offsets[-1:]}"
            raise columns.mismatch(name, f"offsets from 0 to {steps}", found)
        falling = np.flatnonzero(np.diff(offsets) < 1)
        if len(falling):
            row = falling[0] + 1
            found = f"{offsets[row]} in row {row} after {offsets[row - 1]}"
            raise columns.mismatch(name, "increasing offsets", found)
        return offsets
    if "starts" in keys:
        starts = np.flatnonzero(read_flags(columns, keys["starts"]))
        if not len(starts) or starts[0] != 0:
            found = f"the first one in row {starts[0]}" if len(starts) else "none"
            raise columns.mismatch(keys["starts"], "a start in row 0", found)
        return np.append(starts, steps)
    ends = np.zeros(steps, bool)
    for field in ("terminals", "timeouts"):
        if field in keys:
            ends |= read_flags(columns, keys[field])
    ends[-1] = True
    return np.concatenate([[0], np.flatnonzero(ends) + 1])


def _with_endings(
    columns: Columns,
    keys: dict[str, str],
    time: int,
    offsets: Int64[np.ndarray, " bounds"],
) -> Layout:
    """The layout with how each episode ended.

    What no one says ended was truncated, but where `truncated` itself denies it.
    """
    endings = {}
    for field, flag in (("terminated", "terminals"), ("truncated", "timeouts")):
        if field in keys:
            endings[field] = read_flags(columns, keys[field])
        elif flag in keys and not time:
            flags = read_flags(columns, keys[flag])
            endings[field] = flags[offsets[1:] - 1]
            if endings[field].sum() != flags.sum():
                inside = np.setdiff1d(np.flatnonzero(flags), offsets[1:] - 1)
                expected = "flags at the ends of episodes only"
                raise columns.mismatch(keys[flag], expected, f"one in row {inside[0]}")
        elif flag in keys:
            expected = f"none beside arrays [episodes time ...] but {field}"
            raise columns.mismatch(keys[flag], expected, f"the field {flag}")
    terminated = endings.get("terminated", np.zeros(len(offsets) - 1, bool))
    truncated = endings.get("truncated", ~terminated)
    if "truncated" not in keys:
        truncated |= ~terminated
    return Layout(keys, time, offsets, terminated, truncated)


def _check_episode_fields(
    columns: Columns, keys: dict[str, str], episodes: int, wide: Column
) -> None:
    """Checks that what has an entry an episode has as many as there are episodes."""
    width = wide.shape[-1]
    for field in EPISODE_FIELDS.keys() & keys.keys() - set(_BOUNDARIES):
        column = columns.column(keys[field])
        shapes = ((episodes,), (episodes, 1))
        if field == "final_observations":
            shapes = ((episodes, width),)
        if column.shape not in shapes:
            what = f"{list(shapes[0])} entries, one an episode"
            raise columns.mismatch(keys[field], what, column)


def read_integers(columns: Columns, name: str) -> Int64[np.ndarray, " rows"]:
    """An array of integers `[rows]` or `[rows 1]`.

    Raises:
      ValueError: if it has another shape, or numbers that int64 cannot hold.
    """
    column = columns.column(name)
    if column.shape[1:] not in ((), (1,)):
        raise columns.mismatch(name, "one axis", column)
    values = read_whole(columns, name).reshape(-1)
    if column.dtype.kind == "u" and values.max(initial=0) > np.iinfo(np.int64).max:
        raise columns.mismatch(name, "64-bit integers", values.max())
    return values.astype(np.int64)
