"""What the values of options may be: each turns a word into a value.

Raises `argparse.ArgumentTypeError` that says what was expected and found.
"""

import argparse


def seeds(text: str) -> tuple[int, ...]:
    """Different whole numbers, `0,1,2`."""
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise argparse.ArgumentTypeError(
            f"expected different whole numbers such as 0,1,2, found {text!r}"
        )
    return seeds


def bounds(text: str) -> tuple[float, float]:
    """Two ascending numbers, `-1,1`."""
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not low < high:
        raise argparse.ArgumentTypeError(
            f"expected two numbers low,high such as -1,1, found {text!r}"
        )
    return low, high


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return int(text)


def gigabytes(text: str) -> float:
    """A number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return found


def keys(text: str) -> dict[str, str]:
    """Fields and the names of arrays, `observations=obs,rewards=r`."""
    words = text.split(",")
    keys: dict[str, str] = {}
    for word in words:
        field, _, name = word.partition("=")
        keys[field] = name
    if len(keys) < len(words) or not all(field and keys[field] for field in keys):
        raise argparse.ArgumentTypeError(
            "expected different fields and the arrays that they are, such as "
            f"observations=obs,rewards=r, found {text!r}"
        )
    return keys


def tasks(text: str) -> tuple[str, ...]:
    """Names of tasks, `0.1,0.2;-0.2,0`."""
    names = tuple(text.split(";"))
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"expected names of tasks such as walk;run, found {text!r}"
        )
    return names


def temperature(text: str) -> float:
    """A number from 0."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, found {text!r}")
    return found


def processes(text: str) -> int | str:
    """A number above 0, or `auto`."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"expected a number above 0 or auto, found {text!r}"
        )
    return int(text)


def columns(text: str) -> tuple[int, ...]:
    """Whole numbers from 0, `0,1`."""
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(
            f"expected numbers from 0 such as 0,1, found {text!r}"
        )
    return tuple(int(word) for word in words)


def goal(text: str) -> tuple[float, ...] | str:
    """Coordinates `0.5,-1`, or the name of an extra."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        if "," in text or not text:
            raise argparse.ArgumentTypeError(
                "expected coordinates such as 0.5,-1, or the name of an extra such as "
                f"infos/goal, found {text!r}"
            ) from None
        return text


def moment(text: str) -> tuple[int | None, int]:
    """A trial (None: the last) and a step of it, both from 1: `8:1`, `last:1`."""
    trial, _, step = text.partition(":")
    good = step.isdecimal() and int(step) > 0
    if not good or not (trial == "last" or trial.isdecimal() and int(trial) > 0):
        raise argparse.ArgumentTypeError(
            f"expected TRIAL:STEP such as 8:1 or last:1, found {text!r}"
        )
    return None if trial == "last" else int(trial), int(step)
