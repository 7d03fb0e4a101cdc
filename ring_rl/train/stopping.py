"""Signals that end a run between two updates, with a checkpoint of the last one."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence


class Stopped(Exception):
    """Training ended early because it was asked to; what was done is kept.

    Attributes:
      done: updates done; a complete checkpoint holds them where there are any.
    """

    def __init__(self, title: str, done: int, steps: int):
        """`title` names the run, `steps` are the updates that it is to have in all."""
        kept = "its checkpoint is complete" if done else "there is nothing to keep yet"
        super().__init__(
            f"{title}: stopped at update {done} of {steps}, {kept}; the same command "
            "goes on from there"
        )
        self.done = done


@contextlib.contextmanager
def listening(signals: Sequence[signal.Signals]) -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether one of the signals has come.

    Until the block ends they do nothing else; what they did before is then put back.
    Python hands signals to its main thread alone: in any other, and for a signal that
    something other than Python listens to, nothing is changed and none ever comes.
    """
    came = False

    def take(number: int, frame: object) -> None:
        nonlocal came
        came = True

    before = {}
    if threading.current_thread() is threading.main_thread():
        for one in signals:
            handler = signal.getsignal(one)
            if handler is not None:
                before[one] = handler
                signal.signal(one, take)
    try:
        yield lambda: came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
