"""A trace of a few updates, for TensorBoard and Perfetto."""

import contextlib
from pathlib import Path
from typing import Any

import jax

from ring_rl.processes import meet

# Updates that are let pass first: they compile, and fill what is filled ahead.
_WARM_UP, _TRACED = 5, 3


class NoProfile:
    """Writes none."""

    def step(self, update: int) -> contextlib.AbstractContextManager[Any]:
        """A block that is like any other."""
        return contextlib.nullcontext()

    def after(self, update: int, state: Any) -> None:
        """Has nothing to end."""


class Profile(NoProfile):
    """Writes a trace of `_TRACED` updates after `_WARM_UP`, or of the last there are.

    In the folder are `plugins/profile/` for TensorBoard's profile plugin, whose files
    `xprof` opens too, and in it `perfetto_trace.json.gz` for ui.perfetto.dev.
    """

    def __init__(self, directory: Path, *, start: int, steps: int):
        """Of a run that goes from update `start + 1` to `steps`."""
        self.directory = directory
        self.last = min(start + _WARM_UP + _TRACED, steps)
        self.first = max(self.last - _TRACED, start) + 1
        self._running = False

    def step(self, update: int) -> contextlib.AbstractContextManager[Any]:
        """The block in which an update is handed to the devices."""
        if update == self.first:
            jax.profiler.start_trace(self.directory, create_perfetto_trace=True)
            self._running = True
        if not self._running:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=update)

    def after(self, update: int, state: Any) -> None:
        """Ends the trace when its last update is done."""
        if self._running and update >= self.last:
            jax.block_until_ready(state)
            self.close()
            # Writing it takes each process its own time.
            meet()

    def close(self) -> None:
        """Writes what there is of a trace that has begun."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
