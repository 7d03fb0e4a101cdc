"""What every episode must be, whoever made it, before it is stored or written."""

import numpy as np

from ring_rl.types import Discrete, Episode, Spaces


def check_episode(
    episode: Episode, spaces: Spaces, index: int, *, like: Episode | None = None
) -> None:
    """Checks an episode against its contract, and its extras against those of `like`.

    Actions beyond continuous bounds pass: recorded data has them (see `inspect`).

    Raises:
      ValueError: naming the episode's index, the field, what was expected and found.
    """
    steps = len(episode.rewards)
    if not steps:
        raise ValueError(f"episode {index}, rewards: expected steps, found none")
    action, observation = spaces.action, spaces.observation
    discrete = isinstance(action, Discrete)
    expected = {
        "observations": ((steps, observation), np.float32),
        "actions": (
            ((steps,), np.int32) if discrete else ((steps, action.size), np.float32)
        ),
        "rewards": ((steps,), np.float32),
        "discounts": ((steps,), np.float32),
        "final_observation": ((observation,), np.float32),
    }
    for name, (shape, dtype) in expected.items():
        values = getattr(episode, name)
        if values.shape != shape or values.dtype != dtype:
            raise ValueError(
                f"episode {index}, {name}: expected {list(shape)} "
                f"{np.dtype(dtype).name}, found {list(values.shape)} {values.dtype}"
            )
        if not np.isfinite(values).all():
            where = np.argwhere(~np.isfinite(values))[0].tolist()
            raise ValueError(
                f"episode {index}, {name}: expected finite numbers, found "
                f"{values[tuple(where)]} at {where}"
            )
    if discrete and not 0 <= episode.actions.min() <= episode.actions.max() < (
        action.size
    ):
        raise ValueError(
            f"episode {index}, actions: expected 0 to {action.size - 1}, found "
            f"{episode.actions.min()} to {episode.actions.max()}"
        )
    for name, values in episode.extras.items():
        if values.shape[:1] != (steps,):
            raise ValueError(
                f"episode {index}, extras {name!r}: expected {steps} rows, found "
                f"shape {list(values.shape)}"
            )
    if like is not None and _schema(episode) != _schema(like):
        raise ValueError(
            f"episode {index}, extras: expected {_schema(like)} as in the first "
            f"episode, found {_schema(episode)}"
        )


def _schema(episode: Episode) -> dict[str, str]:
    """Type and shape of a step of each extra array, by name."""
    return {
        name: f"{values.dtype}{list(values.shape[1:])}"
        for name, values in sorted(episode.extras.items())
    }
