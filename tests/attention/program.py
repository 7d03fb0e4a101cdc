"""Reads from a compiled program's text which collectives it runs, and how often."""

import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter",
    "collective-broadcast",
)  # fmt: skip
# Of a loop whose count the compiler knows.
TRIPS = r'"known_trip_count":\{"n":"(\d+)"\}'

Computations = dict[str, list[str]]


def read_computations(program: str) -> Computations:
    """The instructions of each computation by name; the entry's name is `ENTRY`."""
    found, current = {}, None
    for line in program.splitlines():
        head = re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line)
        if head:
            current = found.setdefault("ENTRY" if head[1] else head[2], [])
        elif current is not None and " = " in line:
            current.append(line.strip())
    return found


def operation_of(line: str) -> str:
    """The name of an instruction's operation, after its type."""
    return re.search(r" = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)[1]


def executions(
    computations: Computations,
    name: str = "ENTRY",
    times: float = 1.0,
    conditional: bool = False,
) -> Iterator[tuple[str, str, float, bool]]:
    """(operation, type, times, whether inside a conditional) of every collective.

    The times of a loop whose count is data are infinite.
    """
    for line in computations[name]:
        operation = operation_of(line).removesuffix("-start")
        if operation in COLLECTIVES:
            yield operation, line.split(" = ")[1].split("{")[0], times, conditional
        inner = times
        if operation == "while":
            count = re.search(TRIPS, line)
            inner *= int(count[1]) if count else math.inf
        inside = conditional or operation == "conditional"
        for called in _called(line):
            yield from executions(computations, called, inner, inside)


def _called(line: str) -> list[str]:
    names = re.findall(
        r"(?:body|condition|to_apply|calls|true_computation|false_computation)"
        r"=%([\w.\-]+)",
        line,
    )
    branches = re.search(r"branch_computations=\{([^}]*)\}", line)
    return names + (re.findall(r"%([\w.\-]+)", branches[1]) if branches else [])
