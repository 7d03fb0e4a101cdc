"""What the element spec of a `tf.data.Dataset` of RLDS episodes says of its fields."""

from typing import Any, NamedTuple

import numpy as np

# What an episode may say of itself, and the kinds of NumPy types that it says it in.
_SCALARS = {
    "episode_id": "iu",
    "task": "O",
    "truncated": "b",
    "has_final_observation": "b",
}
_NEEDED = ("action", "is_last", "is_terminal", "observation", "reward")
_ONE_NUMBER = ("discount", "is_first", "is_last", "is_terminal", "reward")


class Fields(NamedTuple):
    """What is read of each episode.

    Attributes:
      steps: specs of the numeric fields of a step, of fixed shape, by name; nested
        names are joined with slashes; in the order of sorted names at every level.
      scalars: names of the known fields of an episode that are one value.
    """

    steps: dict[str, Any]
    scalars: tuple[str, ...]

    def parts(self, field: str) -> list[str]:
        """The names that make up a field of a step: itself, or what is below it."""
        return [
            name for name in self.steps if name == field or name.startswith(f"{field}/")
        ]

    def width(self, field: str) -> int:
        """Numbers in a field of a step."""
        return sum(self.steps[part].shape.num_elements() for part in self.parts(field))

    @property
    def discrete(self) -> bool:
        """Whether the action is one integer."""
        action = self.steps.get("action")
        return action is not None and action.shape.rank == 0 and action.dtype.is_integer


def read_fields(tf: Any, spec: Any) -> Fields:
    """The fields of a dataset's element spec.

    Raises:
      ValueError: if these are not RLDS episodes.
    """
    steps: Any = spec.get("steps") if isinstance(spec, dict) else None
    step = steps.element_spec if isinstance(steps, tf.data.DatasetSpec) else None
    if not isinstance(step, dict):
        raise ValueError(
            "element_spec: expected episodes, dicts with 'steps' a Dataset of dicts, "
            f"found {' '.join(str(spec).split())}"
        )
    scalars = (
        name
        for name, kinds in _SCALARS.items()
        if _is_scalar(tf, spec.get(name), kinds)
    )
    fields = Fields(steps=_numeric(tf, step), scalars=tuple(scalars))
    for name in _NEEDED:
        if not fields.parts(name):
            raise ValueError(
                f"element_spec: expected the numeric step field {name!r} of fixed "
                f"shape, found {list(fields.steps)}"
            )
    for name in _ONE_NUMBER:
        if fields.parts(name) and fields.width(name) != 1:
            raise ValueError(
                f"element_spec: expected one number a step as {name}, found "
                f"{fields.width(name)}"
            )
    return fields


def field_of(step: dict[str, Any], name: str) -> Any:
    """The field of a step, of which `infos/qpos` is `qpos` in the dict `infos`."""
    value: Any = step
    for part in name.split("/"):
        value = value[part]
    return value


def _numeric(tf: Any, fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numeric fields of fixed shape by name, in the order of sorted names."""
    found: dict[str, Any] = {}
    for name, spec in sorted(fields.items()):
        if "/" in name:
            raise ValueError(
                f"element_spec: expected field names without slashes, found {name!r}"
            )
        if isinstance(spec, dict):
            found |= _numeric(tf, spec, f"{prefix}{name}/")
        elif _is_fixed(tf, spec) and _kind(spec) in "biuf":
            found[prefix + name] = spec
    return found


def _is_scalar(tf: Any, spec: Any, kinds: str) -> bool:
    """Whether a spec is of single values of one of these kinds."""
    return _is_fixed(tf, spec) and spec.shape.rank == 0 and _kind(spec) in kinds


def _is_fixed(tf: Any, spec: Any) -> bool:
    """Whether a spec is of tensors of one shape, so that they can be put together."""
    return isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined()


def _kind(spec: Any) -> str:
    """The kind of NumPy type that holds the values."""
    return np.dtype(spec.dtype.as_numpy_dtype).kind
