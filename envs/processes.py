"""Rows shared out over processes: what is slow to step is stepped side by side.

Each process holds some of the rows and answers one message a step. The results are
those of all rows in one process, to the last bit.
"""

import contextlib
import multiprocessing
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ring_rl.envs.from_gymnasium import GymnasiumRows
from ring_rl.types import Continuous

MakeRows = Callable[[int], GymnasiumRows]

# Seconds that a message to a process and its answer take, with margin: 0.1 to 0.2 ms
# were measured between two cores.
_MESSAGE = 3e-4
# Steps that are timed to find how slow an environment is, after as many that are not.
_TIMED = 20
# Processes that are tried at most: each imports and holds what one alone would.
_MOST = 16
# Share of the time in one process below which several are worth their memory.
_CLEARLY = 0.9


class ProcessRows:
    """Rows of one environment in several processes; a `VectorEnvironment`.

    Attributes:
      rows, spaces, max_episode_steps, tasks, env_id: as those of `GymnasiumRows`.
    """

    def __init__(
        self, make: MakeRows, rows: int, *, processes: int, first: int = 0
    ) -> None:
        """Starts the processes.

        Args:
          make: makes so many rows, such as `functools.partial(make_vector, "Hopper-v5",
            seed=0)`; it is pickled, and runs in every process.
          rows: B.
          processes: how many; each gets an equal share of the rows, or one less.
          first: number of the first row, where these are some of several.

        Raises:
          ValueError: a number is below 1, or what `make` raises.
          ChildProcessError: a process ended.
        """
        if rows < 1 or processes < 1:
            raise ValueError(
                f"expected at least 1 row and 1 process, found {rows} and {processes}"
            )
        # JAX does not survive a fork.
        context = multiprocessing.get_context("spawn")
        shares = np.array_split(np.arange(rows), min(rows, processes))
        self._shares = [slice(int(x[0]), int(x[-1]) + 1) for x in shares]
        self.rows, self.env_id = rows, "environment"
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for share in self._shares:
                here, there = context.Pipe()
                self._connections.append(here)
                process = context.Process(
                    target=_work,
                    args=(there, make, share.stop - share.start, first + share.start),
                    daemon=True,
                )
                with there, _without_interrupt():
                    process.start()
                self._processes.append(process)
            found = self._answers(range(len(shares)))
        except BaseException:
            self.close()
            raise
        self.env_id, self.spaces, self.max_episode_steps = found[0]
        self.tasks = [""] * rows
        self._observations = np.zeros((rows, self.spaces.observation), np.float32)

    def reset(
        self, rows: Bool[np.ndarray, " B"], tasks: Sequence[str] | None = None
    ) -> Float[np.ndarray, "B O"]:
        """As `GymnasiumRows.reset`.

        Raises:
          ValueError: likewise.
          ChildProcessError: a process ended.
        """
        if rows.shape != (self.rows,):
            raise ValueError(f"rows: expected shape ({self.rows},), found {rows.shape}")
        if tasks is not None and len(tasks) != self.rows:
            raise ValueError(
                f"tasks: expected one for each of {self.rows} rows, found {len(tasks)}"
            )
        asked = [i for i, share in enumerate(self._shares) if rows[share].any()]
        for index in asked:
            share = self._shares[index]
            names = None if tasks is None else list(tasks[share])
            self._send(index, "reset", rows[share], names)
        for index, (observations, names) in zip(
            asked, self._answers(asked), strict=True
        ):
            self._observations[self._shares[index]] = observations
            self.tasks[self._shares[index]] = names
        return self._observations.copy()

    def step(
        self, actions: Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]
    ) -> tuple[
        Float[np.ndarray, "B O"],
        Float[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
    ]:
        """As `GymnasiumRows.step`.

        Raises:
          ValueError: likewise.
          ChildProcessError: a process ended.
        """
        if actions.shape[:1] != (self.rows,):
            raise ValueError(
                f"actions of {self.env_id}: expected one for each of {self.rows} rows, "
                f"found shape {actions.shape}"
            )
        everyone = range(len(self._shares))
        for index in everyone:
            self._send(index, "step", actions[self._shares[index]])
        parts = zip(*self._answers(everyone), strict=True)
        self._observations, rewards, terminated, truncated = map(np.concatenate, parts)
        return self._observations.copy(), rewards, terminated, truncated

    def show(self, rows: Sequence[int]) -> None:
        """As `GymnasiumRows.show`."""
        for index, row in (self._place(row) for row in rows):
            self._send(index, "show", [row])
            self._answers([index])

    def render(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """As `GymnasiumRows.render`."""
        index, row = self._place(row)
        self._send(index, "render", row)
        return self._answers([index])[0]

    def close(self) -> None:
        """Ends the processes and frees what they hold; again does nothing."""
        for connection in self._connections:
            # Closing it ends the process, whatever state it is in.
            connection.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
        self._connections, self._processes = [], []

    def _place(self, row: int) -> tuple[int, int]:
        """The process that holds a row, and the row's number there."""
        for index, share in enumerate(self._shares):
            if share.start <= row < share.stop:
                return index, row - share.start
        raise IndexError(f"expected a row below {self.rows}, found {row}")

    def _send(self, index: int, *message: Any) -> None:
        try:
            self._connections[index].send(message)
        except OSError as error:
            raise self._ended(index) from error

    def _answers(self, asked: Sequence[int]) -> list[Any]:
        """What these processes answer, or the first error among their answers."""
        answers = []
        for index in asked:
            try:
                answers.append(self._connections[index].recv())
            except (EOFError, OSError) as error:
                raise self._ended(index) from error
        for kind, content in answers:
            if kind == "mistake":
                raise ValueError(content)
            if kind == "bug":
                raise RuntimeError(f"a process of {self.env_id} failed:\n{content}")
        return [content for _, content in answers]

    def _ended(self, index: int) -> ChildProcessError:
        process, share = self._processes[index], self._shares[index]
        process.join(timeout=5)
        code = process.exitcode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by signal {signal.Signals(-code).name}"
        return ChildProcessError(
            f"{self.env_id}, rows {share.start} to {share.stop - 1}: their process was "
            f"ended {how}, perhaps for want of memory; try fewer processes"
        )


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Starts what Ctrl-C does not reach: it is for this process, which gets it after.

    A process inherits what is blocked, and would else be interrupted as it imports.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(there: Connection, make: MakeRows, count: int, first: int) -> None:
    """A process: makes its rows, then answers until its connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment: Any = None

    def answer(name: str, *arguments: Any) -> Any:
        nonlocal environment
        if name == "make":
            environment = make(count)
            environment.number_from(first)
            return environment.env_id, environment.spaces, environment.max_episode_steps
        found = getattr(environment, name)(*arguments)
        return (found, environment.tasks) if name == "reset" else found

    message: tuple[Any, ...] = ("make",)
    while True:
        try:
            reply = ("done", answer(*message))
        except (ValueError, ModuleNotFoundError) as error:
            reply = ("mistake", str(error))
        except Exception:
            reply = ("bug", traceback.format_exc())
        try:
            there.send(reply)
            message = there.recv()
        except (EOFError, OSError):
            break
    if environment is not None:
        environment.close()


def choose_processes(make: MakeRows, rows: int) -> int:
    """How many processes step so many rows fastest: 1, or one for each core.

    Counted are cores that this process may run on, and no more than 16.

    One environment is timed first: where all rows' steps take less than messages to
    processes would, it is 1. Else both are made and timed in turn, which takes about a
    second. The results of a rollout do not depend on it.

    Measured on two busy cores, 16 rows, milliseconds a step of all in one process and
    in two: dark room 0.08 and 0.36, cart pole 0.18 and 0.53, HalfCheetah 0.8 and 0.9,
    Hopper 1.9 and 1.7, dm_control's walker 2.6 and 3.5, its quadruped 3.4 and 4.4. What
    else runs on the machine decides, and so it is timed.
    """
    cores = min(_cores(), rows, _MOST)
    if cores < 2:
        return 1
    with contextlib.closing(make(1)) as one:
        seconds = statistics.median(_step_seconds(one, 2 * _TIMED)[_TIMED:])
    if rows * seconds * (1 - 1 / cores) < cores * _MESSAGE:
        return 1
    with contextlib.ExitStack() as stack:
        together = stack.enter_context(contextlib.closing(make(rows)))
        apart = ProcessRows(make, rows, processes=cores)
        stack.enter_context(contextlib.closing(apart))
        times = [
            (_step_seconds(together, _TIMED), _step_seconds(apart, _TIMED))
            for _ in range(3)
        ][1:]
    in_one, in_several = (
        statistics.median(sum(x, [])) for x in zip(*times, strict=True)
    )
    return cores if in_several < _CLEARLY * in_one else 1


def _cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _step_seconds(environment: GymnasiumRows | ProcessRows, steps: int) -> list[float]:
    """Times of steps of new episodes, with actions drawn at random."""
    random, space = np.random.default_rng(0), environment.spaces.action
    over, times = np.ones(environment.rows, bool), []
    for _ in range(steps):
        if over.any():
            environment.reset(over)
        if isinstance(space, Continuous):
            size = (environment.rows, space.size)
            actions = random.uniform(space.low, space.high, size).astype(np.float32)
        else:
            actions = random.integers(space.size, size=environment.rows)
        began = time.perf_counter()
        _, _, terminated, truncated = environment.step(actions)
        times.append(time.perf_counter() - began)
        over = terminated | truncated
    return times
