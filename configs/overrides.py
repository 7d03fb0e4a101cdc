"""`--field value` words of the command line, applied to a preset."""

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")


def parse_overrides(
    preset: Config, words: Sequence[str], *, name: str, command: str = "train"
) -> Config:
    """Returns the preset with fields replaced, `--agent.width 128` and the like.

    Args:
      preset: a frozen dataclass, possibly nested. Fields that are unions of dataclasses
        keep the type they have in the preset.
      words: the command line, split; `--help` prints all fields with their defaults and
        raises `SystemExit`.
      name: of the preset, for the help and for errors.
      command: that takes the words; likewise.

    Raises:
      ValueError: a field that is unknown, or a value that it cannot take, in one line.
    """
    import tyro

    # A help that was asked for is for the standard output, an error for one line.
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            parsed, unknown = tyro.cli(
                tyro.conf.AvoidSubcommands[type(preset)],
                prog=f"ring-rl {command} {name}",
                args=list(words),
                default=preset,
                return_unknown_args=True,
            )
    except SystemExit as error:
        if not error.code:
            raise
        raise ValueError(
            f"{_one_line(boxed.getvalue(), words)}{_see(name, command)}"
        ) from None
    if unknown:
        raise ValueError(f"{_unknown(preset, unknown[0])}{_see(name, command)}")
    return parsed


def _see(name: str, command: str) -> str:
    preset = name if command == "train" else "PRESET"
    return f" (ring-rl train {preset} --help lists the fields)"


def _unknown(preset: Any, word: str) -> str:
    if not word.startswith("--"):
        return (
            f"expected --field value, found the word {word!r} without a field before "
            "it; a switch is written --field or --no-field"
        )
    flag = word.split("=")[0]
    nearest = difflib.get_close_matches(
        flag.removeprefix("--").replace("-", "_"), list(_fields(preset)), n=1
    )
    hint = f"; did you mean --{nearest[0]}?" if nearest else ""
    return f"no field {flag}{hint}"


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields that are not themselves dataclasses."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _one_line(box: str, words: Sequence[str]) -> str:
    """What tyro's box says, in one line.

    The box has a title, the message, then the usage of the field concerned; rules stand
    between them. Where the output takes no UTF-8 the title stands below no frame.
    """
    paragraphs: list[list[str]] = [[]]
    for line in (line.strip("│ ") for line in box.splitlines()):
        if line and not line.strip("─-"):
            paragraphs.append([])
        elif line and line[0] not in "╭╰":
            paragraphs[-1].append(line)
    if "╭" not in box:
        del paragraphs[0]
    message = " ".join(paragraphs[0]).removeprefix("Error parsing ").rstrip(".")
    usages = [line for lines in paragraphs[1:] for line in lines if line[:2] == "--"]
    if not usages:
        return message
    flag, _, expected = usages[0].partition(" ")
    return f"{flag}: expected {expected}, found {_given(flag, words)!r}"


def _given(flag: str, words: Sequence[str]) -> str:
    """The words that follow a flag."""
    # `--field=value` is the other way to write it, and `_` stands for `-` too.
    split = [part for word in words for part in word.split("=", 1)]
    names = [word.replace("_", "-") for word in split]
    if flag not in names:
        return " ".join(words)
    start = names.index(flag) + 1
    end = start
    while end < len(split) and not split[end].startswith("--"):
        end += 1
    return " ".join(split[start:end])
