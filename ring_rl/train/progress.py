"""How far a long piece of work is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any


class NoProgress:
    """Says nothing, in the processes that have another say it."""

    def update(self, done: int, text: str = "") -> None:
        """Does nothing."""

    def say(self, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class Progress(NoProgress):
    """Counts from `start` to `total`; shows rate, time left and the latest numbers."""

    def __init__(self, title: str, total: int, *, start: int = 0, every: float = 10.0):
        """`every`: seconds between lines where there is no terminal."""
        self.title, self.total, self.done = title, total, start
        self._every = every
        self._began = self._said = time.monotonic()
        self._first = start
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(
                title, total=total, completed=start, text=""
            )
            self._bar.start()

    def update(self, done: int, text: str = "") -> None:
        """Says how much is done and what there is to say about it."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._said < self._every and done < self.total:
            return
        self._said = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        # Before the first is done nothing says how long one takes.
        left = f"  {(self.total - done) / rate:.0f} s left" if rate else ""
        print(
            f"{self.title}: {done}/{self.total}  {text}{left}",
            file=sys.stderr,
            flush=True,
        )

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(f"{self.title}: {text}", markup=False)
        else:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
