"""The attention.json that `ring-rl report --attention` left, read with its types."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

# See `ring_rl.configs.looking`, which writes it.
_WHOLE = ("seed", "rollout_seed", "layers", "heads", "trial", "step")
_NUMBERS = ("temperature", "target_return")


def read_look(path: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What is in the file, if it is of a run of this evaluation as it is now.

    Args:
      path: an attention.json.
      evaluation: as from `protocol.summarise`; the file is beside it.

    Raises:
      ValueError: it holds something else, or is of other conditions.
    """
    try:
        found = json.loads(path.read_text())
        look = {
            **{name: _whole(found[name]) for name in _WHOLE},
            **{name: _number(found[name]) for name in _NUMBERS},
            **_masses(found, _whole(found["layers"])),
        }
        if not isinstance(found["task"], str):
            raise TypeError(f"expected a task's name, found {found['task']!r}")
        look["task"] = found["task"]
        conditions, trials = found.get("conditions"), found.get("trials")
    except (
        AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path}: cannot be read ({type(error).__name__}: {error})"
        ) from error
    same = (
        conditions == evaluation["conditions"]
        and trials == evaluation["counts"]["trials"]
        and look["seed"] in evaluation["seeds"]
    )
    if not same:
        raise ValueError(
            f"{path}: is not of the evaluation beside it as it is now; look again with "
            "--attention"
        )
    return look


def _masses(found: dict[str, Any], layers: int) -> dict[str, Any]:
    """Attention and what it goes to: T trials, M moments."""
    trials, moments = len(found["returns"]), len(found["moments"])
    shapes = {
        "returns": (trials,),
        "steps_seen": (trials,),
        "by_trial": (trials,),
        "by_layer_and_trial": (layers, trials),
        "moments": (moments,),
        "by_moment_and_trial": (moments, trials),
    }
    made: dict[str, Any] = {}
    for name, shape in shapes.items():
        whole = name in ("steps_seen", "moments")
        values = np.asarray(found[name], np.int64 if whole else np.float64)
        if values.shape != shape or 0 in shape or not np.isfinite(values).all():
            raise ValueError(f"{name}: expected finite numbers {shape}")
        made[name] = values.tolist()
    steps = [
        # None is a step that the token does not see.
        [None if mass is None else _number(mass) for mass in row]
        for row in found["by_trial_and_step"]
    ]
    if len(steps) != trials or not all(steps):
        raise ValueError(f"by_trial_and_step: expected the steps of {trials} trials")
    if not any(made["steps_seen"]):
        raise ValueError("steps_seen: expected a step at least")
    return {**made, "by_trial_and_step": steps}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {value}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, found {value!r}")
    return value
