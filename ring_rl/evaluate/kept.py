"""Rollouts of one seed on disk, until the evaluation that they are of is complete."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.evaluate.report import write_text
from ring_rl.types import Rollouts

# Of an evaluation's folder: where they are.
UNFINISHED = "unfinished"


def keep_rollouts(file: Path, identity: dict[str, Any], rollouts: Rollouts) -> None:
    """Writes the rollouts, whole or not at all; the folder is made where it is missing.

    Args:
      file: where.
      identity: of what they depend on, plain values.
      rollouts: to keep.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in rollouts._asdict().items()
    }
    write_text(file, json.dumps({"identity": identity, "rollouts": plain}) + "\n")


def kept_rollouts(file: Path, identity: dict[str, Any]) -> Rollouts | None:
    """The rollouts of a file, or None where there are none of this identity."""
    try:
        content = json.loads(file.read_text())
        if content["identity"] != json.loads(json.dumps(identity)):
            return None
        plain = content["rollouts"]
        return Rollouts(
            returns=np.asarray(plain["returns"], np.float64),
            lengths=np.asarray(plain["lengths"], np.int64),
            terminated=np.asarray(plain["terminated"], np.bool_),
            tasks=tuple(plain["tasks"]),
            environment_steps_per_second=float(plain["environment_steps_per_second"]),
            decode_milliseconds=float(plain["decode_milliseconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
