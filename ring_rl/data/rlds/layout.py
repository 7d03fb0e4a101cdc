"""Which features of an RLDS dataset become what of an episode."""

import dataclasses
import functools
from pathlib import Path

from ring_rl.data.rlds.tfds_files import FEATURES_NAME, Feature, read_features
from ring_rl.types import Continuous, Discrete, Spaces

_REQUIRED = ("reward", "is_last", "is_terminal")
_SCALARS = ("discount", *_REQUIRED)
_OF_EPISODE = ("episode_id", "task", "truncated", "has_final_observation")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which features of a step become what of an episode.

    Attributes:
      observation: the parts of the observation, in their order in it.
      action: the parts of the action.
      scalars: one number a step each: rewards, discounts and flags.
      extras: what else there is, but for `is_first`, which says nothing new.
    """

    observation: dict[str, Feature]
    action: dict[str, Feature]
    scalars: dict[str, Feature]
    extras: dict[str, Feature]

    @functools.cached_property
    def discrete(self) -> bool:
        """Whether an action is one integer."""
        (first, *others) = self.action.values()
        return not others and first.size == 1 and first.dtype.kind in "iu"

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names in a record of all that is read."""
        parts = (*self.observation, *self.action, *self.scalars, *self.extras)
        return frozenset((*(f"steps/{name}" for name in parts), *_OF_EPISODE))


def read_layout(directory: Path) -> Layout:
    """The layout of a dataset.

    Raises:
      ValueError: if its features are not those of RLDS, naming the one that is not.
    """
    steps, _ = read_features(directory)
    found = sorted(steps)
    # By parts, not by characters: `a-b/c` comes after `a/c`.
    ordered = sorted(steps, key=lambda name: name.split("/"))

    def parts(name: str) -> dict[str, Feature]:
        inside = {
            part: steps.pop(part) for part in ordered if part.split("/")[0] == name
        }
        if not inside:
            raise _missing(directory, name, found)
        return inside

    observation, action = parts("observation"), parts("action")
    scalars = {name: steps.pop(name) for name in _SCALARS if name in steps}
    for name in _REQUIRED:
        if name not in scalars:
            raise _missing(directory, name, found)
    for name, feature in scalars.items():
        if feature.size != 1:
            raise ValueError(
                f"{directory / FEATURES_NAME}: {name}: expected one number a step, "
                f"found {list(feature.shape)}"
            )
    steps.pop("is_first", None)
    return Layout(observation, action, scalars, steps)


def _missing(directory: Path, name: str, found: list[str]) -> ValueError:
    """The error about a feature that there is not."""
    return ValueError(
        f"{directory / FEATURES_NAME}: expected the numeric step feature {name!r}, "
        f"found {found}"
    )


def infer_spaces(
    layout: Layout, *, largest_action: int, bounds: tuple[float, float]
) -> Spaces:
    """The spaces of a dataset that does not state them."""
    width = sum(feature.size for feature in layout.observation.values())
    if layout.discrete:
        return Spaces(width, Discrete(largest_action + 1))
    actions = sum(feature.size for feature in layout.action.values())
    return Spaces(width, Continuous((bounds[0],) * actions, (bounds[1],) * actions))
