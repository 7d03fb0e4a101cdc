"""Processes that compute beside this one, and do not outlive it."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any


class InProcess(concurrent.futures.Executor):
    """No process at all: what is handed in is done at once."""

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future:
        """The result, or what was raised."""
        future = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Processes(concurrent.futures.ProcessPoolExecutor):
    """Processes whose end before their work's is one line, where the block ends."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        super().__exit__(exc_type, exc_val, exc_tb)
        if isinstance(exc_val, BrokenProcessPool):
            raise ValueError(
                "processes: expected worker processes that finish, found that one was "
                "ended, perhaps for want of memory; try fewer"
            ) from exc_val


def make_executor(
    processes: int, *, apart: bool = False
) -> concurrent.futures.Executor:
    """Spawned processes, since JAX does not survive a fork.

    One means this one, unless it is to be `apart`.

    What is handed in must be picklable, and defined where an import finds it. They
    leave Ctrl-C to this process, and end with it however it ends.

    Raises:
      ValueError: `processes` is below 1; at the end of the executor's own `with` block,
        if a process was ended from outside.
    """
    if processes < 1:
        raise ValueError(f"processes: expected at least 1, found {processes}")
    if processes == 1 and not apart:
        return InProcess()
    return _Processes(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot say that there will be no more work: its end must."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
