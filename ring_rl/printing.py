"""How the commands print: JSON, tables, summaries, and how far they are."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def require_folder(path: Path) -> None:
    """Raises FileNotFoundError where there is no folder."""
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise FileNotFoundError(f"{path}: expected a folder, found {what}")


def print_json(value: Any) -> None:
    """Prints JSON of several lines, without NaN."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(evaluations: Sequence[dict[str, Any]]) -> None:
    """Prints the table of evaluations, on a terminal with lines and colours."""
    from rich.console import Console

    from ring_rl.evaluate.report import plain_table, table

    console = Console()
    if console.is_terminal:
        console.print(table(evaluations))
    else:
        print(plain_table(evaluations))


def print_summary(summary: dict[str, Any]) -> None:
    """Prints what `data.inspect` says of a dataset, a line an entry."""
    for name, value in summary.items():
        if name == "spaces":
            value = _spaces(value)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(one)}" for key, one in value.items())
        if isinstance(value, list):
            value = "".join(f"\n  {one}" for one in value) or " none"
            print(f"{name}:{value}")
        else:
            print(f"{name}: {value}")


def _spaces(spaces: dict[str, Any]) -> str:
    """Spaces in words; bounds that are all the same are told once."""
    action = spaces["action"]
    if action["kind"] == "discrete":
        return f"observation {spaces['observation']}, {action['size']} discrete actions"
    bounds = sorted(set(zip(action["low"], action["high"], strict=True)))
    told = " or ".join(f"[{low:g}, {high:g}]" for low, high in bounds[:3])
    more = f" and {len(bounds) - 3} other ranges" if len(bounds) > 3 else ""
    return (
        f"observation {spaces['observation']}, action {action['size']} in {told}{more}"
    )


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def say() -> Callable[[str], None]:
    """Tells the standard error what is being done; on a terminal in one line."""
    # Back to the line's start, and whatever stood there erased.
    start, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")
    return lambda text: print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def progress(what: str = "read") -> Callable[[int, int], None]:
    """Reports to the standard error: one changing line on a terminal, else a few."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 10.0
    last = time.monotonic()

    def report(episodes: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= interval:
            last = time.monotonic()
            # Back to the line's start, and whatever stood there erased.
            start, end = ("\r\x1b[K", "") if terminal else ("", "\n")
            text = f"{episodes} episodes, {steps} steps {what}"
            print(f"{start}{text}", end=end, file=sys.stderr, flush=True)

    return report
