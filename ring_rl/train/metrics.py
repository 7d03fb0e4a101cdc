"""Metrics on disk: `metrics.jsonl` without clocks, `timing.jsonl`, TensorBoard.

`metrics.jsonl` is a function of the configuration alone: a run that was killed and
continued writes the same bytes as one that was not.
"""

import json
from pathlib import Path
from typing import Any, TextIO


def _steps_up_to(path: Path, step: int) -> list[str]:
    """The complete lines of a JSON-lines file up to a step."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break  # the line that the run died in
        if record["step"] > step:
            break
        kept.append(line + "\n")
    return kept


class NoMetrics:
    """Writes none, in the processes that have another write them."""

    def write(self, step: int, metrics: dict[str, float], timing: dict[str, Any]):
        """Does nothing."""


class MetricsWriter(NoMetrics):
    """Appends one record a logging interval; continues where a checkpoint stands."""

    def __init__(self, directory: Path, *, step: int):
        """Drops whatever was written after `step` updates."""
        from tensorboardX import SummaryWriter

        self._files: dict[str, TextIO] = {}
        for name in ("metrics", "timing"):
            path = directory / f"{name}.jsonl"
            kept = _steps_up_to(path, step)
            partial = path.with_suffix(".partial")
            partial.write_text("".join(kept))
            partial.replace(path)
            self._files[name] = path.open("a")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: dict[str, float], timing: dict[str, Any]):
        """One line in each file, handed to the system before this returns."""
        for name, values in (("metrics", metrics), ("timing", timing)):
            file = self._files[name]
            file.write(json.dumps({"step": step, **values}) + "\n")
            file.flush()
            for key, value in values.items():
                self._board.add_scalar(f"{name}/{key}", value, step)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()
        self._board.close()
