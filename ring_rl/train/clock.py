"""Where the time of training goes, for `timing.jsonl`."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds since the last line, and what the host spent them on.

    Entries of a line, besides `seconds` (wall-clock time since the line before, or
    since training began) and `tokens_per_second` (padding included: it is computed like
    the rest), are shares of the seconds:
      waiting_for_data: the next batch was not there yet.
      dispatching: the step was handed to the devices; the first time it is compiled.
      waiting_for_devices: they had updates left to do. Where this is small, the devices
        wait for the host.
      writing: metrics, and checkpoints as far as training waits for them.
    What is left is the loop's own, and a trace where one is made.

    `model_flops_per_second` is 6 for each parameter and token: forward and backward of
    the matrices, without what attention does between tokens, and without what is
    computed twice.
    """

    SHARES = ("waiting_for_data", "dispatching", "waiting_for_devices", "writing")

    def __init__(self, parameters: int):
        """Begins now; `parameters` are the numbers that the model is made of."""
        self._parameters = parameters
        self._restart(time.monotonic())

    def _restart(self, now: float) -> None:
        self._began, self._tokens = now, 0
        self._spent: dict[str, float] = dict.fromkeys(self.SHARES, 0.0)

    @contextlib.contextmanager
    def spent(self, share: str) -> Iterator[None]:
        """Counts the time in the block as spent on one of `SHARES`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[share] += time.monotonic() - began

    def count(self, tokens: int) -> None:
        """Takes note of the tokens of another update."""
        self._tokens += tokens

    def line(self) -> dict[str, float]:
        """The entries of a line, and from here on those of the next."""
        now = time.monotonic()
        seconds = now - self._began
        speed = self._tokens / seconds
        found = {
            "seconds": seconds,
            "tokens_per_second": speed,
            "model_flops_per_second": 6 * self._parameters * speed,
        }
        found |= {name: spent / seconds for name, spent in self._spent.items()}
        self._restart(now)
        return found
