"""A watch over the processes of a run: none waits for another that is gone.

XLA waits without end for a process that was killed or stopped in the middle of a
collective, and in the end prints a stack trace. So a thread of each process tells the
others that it is there, and ends its own, in one line, when another is not.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import signal
import sys
import threading
import time
from typing import Any

# Seconds of silence after which a process counts as lost.
LOST_AFTER = 40.0
# Seconds that a process which ends waits for the others to hear of it.
FAREWELL = 4.0
# Seconds between two signs of life.
_BEAT = 1.0

DONE, ENDED = "done", "ended: "
GOES_ON = "the same commands go on from the last checkpoint"
_ALIVE = "ring_rl/alive/"
# What goes between processes, in the errors of it.
_BETWEEN = ("Gloo", "NCCL", "coordination")


class Watch:
    """Tells the other processes that this one lives, and ends it when another does not.

    Attributes:
      index, count: which process this is, and of how many.
      client: of JAX's coordination service, which has no public name.
    """

    def __init__(self, index: int, count: int):
        """Of a process that JAX's distributed runtime knows."""
        from jax._src import distributed

        self.index, self.count = index, count
        self.client: Any = distributed.global_state.client
        self._said = ""
        self._answers = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._listening = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        """Starts the threads, which end before Python does."""
        name = self.name(self.index)
        when_aborted(f"{name}: its runtime ended it, see above; {GOES_ON}")
        self._listening.start()
        if self.index != 0:
            threading.Thread(target=self._mind, daemon=True).start()
        # Before JAX's own, which waits for the others.
        atexit.register(self._stop)

    def _stop(self) -> None:
        """Ends the threads, where the process comes to its end.

        As Python ends it stops each thread that comes back to it from a call of the
        service's, which aborts the process: its work done, and an exit code of -6.
        """
        if not self._said:
            self.say(DONE)  # Or the others would miss its signs of life.
        self._over.set()
        self._listening.join(FAREWELL)

    def name(self, index: int) -> str:
        """A process in words."""
        return f"process {index} of {self.count}"

    def say(self, last: str) -> None:
        """The last that the others hear, unless nobody answers in a few seconds."""
        self._said = last

        def tell() -> None:
            with contextlib.suppress(Exception):
                self._tell(last)

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        telling.join(FAREWELL)

    def _tell(self, what: str) -> None:
        # A sign of life must not come after what was said last.
        with self._lock:
            self.client.key_value_set(
                f"{_ALIVE}{self.index}", self._said or what, allow_overwrite=True
            )

    def _listen(self) -> None:
        """Signs of life, ours and theirs; the service may never answer."""
        began = time.monotonic()
        heard = dict.fromkeys(range(self.count), ("", began))
        for beat in itertools.count():
            try:
                self._tell(str(beat))
                found = dict(self.client.key_value_dir_get(_ALIVE))
            except Exception:  # whatever it is, `_mind` finds that there is no answer
                if self._over.wait(_BEAT):
                    return
                continue
            now = time.monotonic()
            self._answers += 1
            for index in range(self.count):
                said = found.get(f"{_ALIVE}{index}", "")
                if said != heard[index][0] or said == DONE:
                    heard[index] = (said, now)
                if index == self.index:
                    continue
                if said.startswith(ENDED):
                    self._end(f"{self.name(index)} {said}")
                if now - heard[index][1] > LOST_AFTER:
                    self._end(_lost(self.name(index)))
            if self._over.wait(_BEAT):
                return

    def _mind(self) -> None:
        """Minds the coordination service, which is in process 0.

        By its own beats, not by the clock: this process may itself have stood still.
        """
        answers, silent = -1, 0.0
        while not self._over.wait(_BEAT):
            silent = silent + _BEAT if answers == self._answers else 0.0
            answers = self._answers
            if silent > LOST_AFTER:
                self._end(_lost(self.name(0)))

    def _end(self, why: str) -> None:
        if not self._said and not self._over.is_set():
            _tell_user(f"{self.name(self.index)} ends: {why}")
            os._exit(1)


# That of this process; None where it is the only one.
current: Watch | None = None


def leave(code: int, error: BaseException | None = None) -> int:
    """Ends this process's part; returns the exit code, or does not return.

    Where it failed the others are told and end too, and so does this one, at once: it
    would else wait for them as it ends.

    Args:
      code: the exit code.
      error: why it is not 0.
    """
    if current is None:
        return code
    if code == 0:
        current.say(DONE)
        when_aborted(None)
        return code
    current.say(ENDED + (" ".join(str(error).split()) or f"exit code {code}"))
    # With the coordinator goes the others' way of hearing of it.
    time.sleep(FAREWELL if current.index == 0 else 0)
    sys.stdout.flush()
    os._exit(code)


def find_fault(error: Exception) -> None:
    """Waits, after an error that another process may be the reason of.

    One that was killed closes its connections, so that a collective fails here before
    that process is missed. When it is, this one ends in a line that names it, and this
    does not return.
    """
    text = str(error)
    if current is not None and any(name in text for name in _BETWEEN):
        time.sleep(LOST_AFTER + 10)


def _lost(name: str) -> str:
    return f"{name} has not been heard of for {LOST_AFTER:.0f} s; {GOES_ON}"


def _tell_user(why: str) -> None:
    """A line on the standard error, whatever holds Python's own."""
    with contextlib.suppress(OSError):
        os.write(2, f"ring-rl: error: {why}\n".encode())


def when_aborted(line: str | None) -> None:
    """Has XLA's way of ending a process end in a line, and not in a stack trace alone.

    It calls `abort` from a thread of its own; handlers of Python's own kind would only
    run after that. None puts back what happens otherwise.
    """
    c_signal = ctypes.CDLL(None).signal
    if line is None:
        c_signal(int(signal.SIGABRT), None)
        return

    def aborted(number: int) -> None:
        _tell_user(line)
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    # What C may call must not be freed.
    _handlers.append(handler)
    c_signal(int(signal.SIGABRT), handler)


_handlers: list[Any] = []
