"""D4RL's reference returns, and the averages that evaluations are summed up by."""

import re

import numpy as np
from jaxtyping import Float

# Return of a random and of an expert policy. Source: Fu et al. 2020, arXiv 2004.07219,
# and the `infos` table of the package d4rl 1.1.
REFERENCES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.833102),
    "hammer": (-274.856578, 12794.134825),
    "door": (-56.512833, 2880.569309),
    "relocate": (-6.425911, 4233.877798),
}

_QUALITY = "random|medium|medium-replay|medium-expert|expert|full-replay"

# Full patterns, not prefixes: dm_control's hopper-hop and the dense variants of maze2d
# have other scales and must find no reference.
_NAMES = (
    re.compile(r"(?:gym(?:nasium)?[:/])?(HalfCheetah|Hopper|Walker2d|Ant)-v\d"),
    re.compile(rf"(halfcheetah|hopper|walker2d|ant)-(?:{_QUALITY})-v[0-2]"),
    re.compile(r"(maze2d-(?:umaze|medium|large))-v[01]"),
    re.compile(r"(antmaze)-(?:umaze|medium|large)(?:-(?:diverse|play))?-v[0-2]"),
    re.compile(r"(kitchen)-(?:complete|partial|mixed)-v0"),
    re.compile(r"(pen|hammer|door|relocate)-(?:human|cloned|expert)-v[01]"),
)


def reference(environment: str) -> tuple[float, float] | None:
    """Finds the returns that D4RL scores 0 and 100 in an environment.

    Args:
      environment: a Gymnasium id of one of D4RL's MuJoCo tasks (`Hopper-v5`), or the
        name of one of D4RL's data sets (`hopper-medium-v2`).

    Returns:
      `(min, max)`, undiscounted returns, or None where D4RL has no reference. The
      references were measured in version 2 of the MuJoCo tasks; later versions differ
      in details of the reward.
    """
    for pattern in _NAMES:
        match = pattern.fullmatch(environment)
        if match is not None:
            return REFERENCES[match[1].lower()]
    return None


def normalised_score(
    environment: str, returns: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."] | None:
    """Turns returns into D4RL scores, 100 (return - min) / (max - min).

    Args:
      environment: a name that `reference` understands.
      returns: undiscounted returns, of any shape.

    Returns:
      Scores of the same shape (0: random, 100: expert), or None where D4RL has no
      reference for the environment.
    """
    bounds = reference(environment)
    if bounds is None:
        return None
    low, high = bounds
    return np.asarray(100.0 * (returns - low) / (high - low))


def iqm(values: Float[np.ndarray, "*shape n"]) -> Float[np.ndarray, "*shape"]:
    """Interquartile mean over the last axis: the mean without both outer quarters.

    Of n values the floor(n / 4) smallest and as many of the largest are left out.

    Raises:
      ValueError: there is nothing to average.

    Source: Agarwal et al. 2021, arXiv 2108.13264.
    """
    _require_values(values)
    cut = values.shape[-1] // 4
    kept = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    return np.asarray(np.mean(kept, axis=-1))


def weighted_iqm(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, "resamples n"]
) -> Float[np.ndarray, " resamples"]:
    """`iqm` of samples in which `values[i]` occurs `weights[r, i]` times.

    One sort serves all resamples. Weights need not be whole numbers; each row must add
    up to more than 0.
    """
    _require_values(values)
    order = np.argsort(values, kind="stable")
    upper = np.cumsum(weights[:, order], axis=1)
    total = upper[:, -1:]
    # A sum of thirds may end up a rounding error below the whole number it stands for.
    cut = np.floor(total / 4 + 1e-9)
    kept = np.diff(np.clip(upper, cut, total - cut), axis=1, prepend=cut)
    return np.asarray(kept @ values[order] / np.sum(kept, axis=1))


def _require_values(values: Float[np.ndarray, "*shape n"]) -> None:
    if values.shape[-1] == 0:
        raise ValueError(
            f"expected at least one value to average, found {values.shape}"
        )
