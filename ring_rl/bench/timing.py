"""Times of several programs, taken in turn so that a noisy machine is fair to all."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

# Shorter measurements are mostly of the clock and the dispatch.
_LEAST_SECONDS = 0.05
_MOST_CALLS = 200


class Call(NamedTuple):
    """A program with its arguments.

    Attributes:
      run: returns arrays; called without arguments.
      times: calls of one measurement.
    """

    run: Callable[[], Any]
    times: int


class Times(NamedTuple):
    """Seconds of one call in each run.

    Attributes:
      wall: of the clock.
      cpu: user and system, of all threads of the process.
    """

    wall: list[float]
    cpu: list[float]

    def summary(self) -> dict[str, float]:
        """Median and spread of both."""
        found = {}
        for name, values in (("wall", self.wall), ("cpu", self.cpu)):
            found[f"{name}_seconds"] = statistics.median(values)
            found[f"{name}_seconds_min"] = min(values)
            found[f"{name}_seconds_max"] = max(values)
        return found

    def share(self, other: "Times", clock: str) -> float:
        """What this takes of what the other takes: the median over runs.

        Run by run, since the machine's speed changes from one to the next.
        """
        pairs = zip(getattr(self, clock), getattr(other, clock), strict=True)
        return statistics.median(one / max(two, 1e-9) for one, two in pairs)


def warm_up(run: Callable[[], Any]) -> tuple[Any, Call]:
    """The first result of a program, and how to time it from here on."""
    began = time.perf_counter()
    result = jax.block_until_ready(run())
    if _queues():
        # The first call has loaded the program.
        began = time.perf_counter()
        result = jax.block_until_ready(run())
    seconds = max(time.perf_counter() - began, 1e-9)
    return result, Call(run, min(_MOST_CALLS, math.ceil(_LEAST_SECONDS / seconds)))


def _queues() -> bool:
    """Whether calls wait in the device's queue, so that dispatch takes no time."""
    return jax.default_backend() != "cpu"


def race(
    calls: Mapping[str, Call], runs: int, say: Callable[[str], None]
) -> dict[str, Times]:
    """Times all programs in turn, `runs` times: A B C A B C, and not A A B B C C."""
    times = {name: Times([], []) for name in calls}
    queues = _queues()
    for run in range(runs):
        say(f"run {run + 1} of {runs}")
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            result = None
            for _ in range(call.times):
                result = call.run()
                if not queues:
                    jax.block_until_ready(result)
            jax.block_until_ready(result)
            times[name].wall.append((time.perf_counter() - wall) / call.times)
            times[name].cpu.append((time.process_time() - cpu) / call.times)
    return times
