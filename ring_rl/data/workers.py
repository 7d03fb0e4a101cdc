"""Processes that compute beside this one, and do not outlive it."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
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


def make_executor(processes: int) -> concurrent.futures.Executor:
    """Spawned processes, since JAX does not survive a fork; one means this one.

    What is handed in must be picklable, and defined where an import finds it. They
    leave Ctrl-C to this process, and end with it however it ends.

    Raises:
      ValueError: `processes` is below 1.
    """
    if processes < 1:
        raise ValueError(f"processes: expected at least 1, found {processes}")
    if processes == 1:
        return InProcess()
    return concurrent.futures.ProcessPoolExecutor(
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
