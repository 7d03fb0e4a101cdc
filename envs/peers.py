"""Rows shared out over the processes of a run, each of which steps its own.

All processes call the same methods with the same arguments, and all get the results of
all rows: those of one process, to the last bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ring_rl.processes import exchange, meet
from ring_rl.types import VectorEnvironment

# Makes so many rows, of which the first has this number among all.
MakeShare = Callable[[int, int], VectorEnvironment]


class PeerRows:
    """Rows of one environment in all processes of a run; a `VectorEnvironment`.

    Attributes:
      rows, spaces, max_episode_steps: as those of `GymnasiumRows`.
    """

    def __init__(self, make: MakeShare, rows: int, *, process: int, processes: int):
        """Makes this process's share, an equal one or one row less.

        Args:
          make: makes so many rows, numbered from its second argument on.
          rows: B, of all processes.
          process: which of the processes this is.
          processes: how many there are.

        Raises:
          ValueError: what `make` raises, here or in another process.
        """
        least, more = divmod(rows, processes)
        ends = [least * i + min(i, more) for i in range(processes + 1)]
        self._shares = [slice(*ends[i : i + 2]) for i in range(processes)]
        self._own = self._shares[process]
        own = range(rows)[self._own]
        self.rows = rows
        error = None
        try:
            # Where there are fewer rows than processes, one to ask for its spaces.
            self._environment = make(max(1, len(own)), own.start)
        except Exception as one:
            error = one
        # The others may have taken longer.
        meet()
        _end_together(exchange(np.array(error is not None)), error)
        self.spaces = self._environment.spaces
        self.max_episode_steps = self._environment.max_episode_steps
        self._record = np.dtype(
            [
                ("failed", np.bool_),
                ("observations", np.float32, (self.spaces.observation,)),
                ("rewards", np.float32),
                ("terminated", np.bool_),
                ("truncated", np.bool_),
            ]
        )

    def reset(
        self, rows: Bool[np.ndarray, " B"], tasks: Sequence[str] | None = None
    ) -> Float[np.ndarray, "B O"]:
        """As `GymnasiumRows.reset`."""
        names = None if tasks is None else list(tasks)[self._own]

        def work(own: Any) -> None:
            if not len(own):
                return
            mask = np.asarray(rows)[self._own]
            own["observations"] = self._environment.reset(mask, names)

        return self._together(work)["observations"]

    def step(
        self, actions: Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]
    ) -> tuple[
        Float[np.ndarray, "B O"],
        Float[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
    ]:
        """As `GymnasiumRows.step`."""
        names = "observations", "rewards", "terminated", "truncated"

        def work(own: Any) -> None:
            if not len(own):
                return
            found = self._environment.step(actions[self._own])
            for name, values in zip(names, found, strict=True):
                own[name] = values

        found = self._together(work)
        observations, rewards, terminated, truncated = (
            np.ascontiguousarray(found[name]) for name in names
        )
        return observations, rewards, terminated, truncated

    def close(self) -> None:
        """Frees what this process's share holds."""
        self._environment.close()

    def _together(self, work: Callable[[Any], None]) -> Any:
        """A record a row, of which each process fills in its own by `work`."""
        count = self._own.stop - self._own.start
        # As many for each process: the first has the most.
        own = np.zeros(self._shares[0].stop, self._record)
        error = None
        try:
            work(own[:count])
        except Exception as one:
            error, own["failed"] = one, True
        found = exchange(own)
        _end_together(np.any(found["failed"], axis=1), error)
        parts = zip(found, self._shares, strict=True)
        return np.concatenate([part[: x.stop - x.start] for part, x in parts])


def _end_together(failed: Any, error: Exception | None) -> None:
    """Raises the error of this process, or one that names the process that has one."""
    if error is not None:
        raise error
    if failed.any():
        raise ValueError(
            f"evaluate: the environment failed in process {int(np.argmax(failed))}, "
            "which says how"
        )
