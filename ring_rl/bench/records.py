"""Records: what a measurement found, as JSON values and as lines to read."""

from collections.abc import Callable
from typing import Any

# In every record, null where it was not measured: programs may rely on them.
KEYS = (
    "implementation",
    "devices",
    "tokens",
    "wall_seconds",
    "cpu_seconds",
    "temp_bytes_per_device",
    "max_abs_error",
)

Record = dict[str, Any]
# What a benchmark tells while it works.
Say = Callable[[str], None]


def make_record(benchmark: str, **values: Any) -> Record:
    """A record with the machine's description in it."""
    from ring_rl.bench.machine import describe

    return {
        "benchmark": benchmark,
        **dict.fromkeys(KEYS),
        **values,
        **describe(),
    }


def rates(record: Record) -> Record:
    """Tokens and floating-point operations a second, from what a record has."""
    found = {"tokens_per_second": record["tokens"] / record["wall_seconds"]}
    found["tokens_per_second"] *= record.get("batch", 1)
    if "flops" in record:
        found["gflops_per_cpu_second"] = record["flops"] / record["cpu_seconds"] / 1e9
        found["gflops_per_second"] = record["flops"] / record["wall_seconds"] / 1e9
    return found


# Heading, width, and the text of a record's value.
_Column = tuple[str, int, Callable[[Record], str]]


def _number(key: str, form: str = ".4g", unit: float = 1) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        value = record.get(key)
        if value is None:
            return "-"
        return format(value if unit == 1 else value / unit, form)

    return text


_WHO: tuple[_Column, ...] = (
    ("implementation", 16, lambda record: record["implementation"]),
    ("devices", 7, _number("devices", "d")),
    ("tokens", 8, _number("tokens", "d")),
)
_TIME: tuple[_Column, ...] = (
    ("cpu s", 9, _number("cpu_seconds")),
    ("wall s", 9, _number("wall_seconds")),
    ("(least", 9, _number("wall_seconds_min")),
    ("most)", 9, _number("wall_seconds_max")),
)
_TEMP: _Column = ("temp MB", 9, _number("temp_bytes_per_device", ".4g", 1e6))
_COLUMNS: dict[str, tuple[_Column, ...]] = {
    "attention": (
        *_WHO,
        *_TIME,
        ("cpu x", 7, _number("cpu_ratio", ".3f")),
        ("wall x", 7, _number("wall_ratio", ".3f")),
        _TEMP,
        ("error", 9, _number("max_abs_error", ".2g")),
        ("GF/cpu s", 9, _number("gflops_per_cpu_second", ".1f")),
        ("matmul", 7, _number("matmul_share", ".0%")),
        ("balance", 7, _number("balance", ".2f")),
    ),
    "memory": (
        *_WHO,
        _TEMP,
        ("bytes/token", 11, _number("bytes_per_token", ".1f")),
        ("with tokens", 11, _number("growth_with_tokens", ".3f")),
        ("with devices", 12, _number("growth_with_devices", ".3f")),
        ("scores GB", 10, _number("reference_scores_bytes", ".4g", 1e9)),
    ),
    "step": (
        *_WHO,
        *_TIME,
        ("tokens/s", 9, _number("tokens_per_second", ".0f")),
        _TEMP,
        ("resident GB", 11, _number("resident_bytes", ".2f", 1e9)),
        ("device GB", 9, _number("device_bytes", ".2f", 1e9)),
        ("planned GB", 10, _number("predicted_bytes_per_device", ".2f", 1e9)),
        ("loss", 10, _number("loss", ".6f")),
        ("difference", 10, _number("loss_difference", ".1e")),
        ("attention", 9, _number("attention_share", ".0%")),
        ("feed-fwd", 8, _number("feed_forward_share", ".0%")),
        ("mfu", 5, _number("model_flops_utilisation", ".0%")),
    ),
    "data": (
        ("what", 20, lambda record: record["implementation"]),
        ("steps", 9, _number("steps", "d")),
        ("tokens", 9, _number("tokens", "d")),
        ("processes", 9, _number("processes", "d")),
        *_TIME,
        ("M/cpu s", 9, _number("per_cpu_second", ".3f", 1e6)),
        ("M/s", 9, _number("per_second", ".3f", 1e6)),
        ("added MB", 9, _number("added_bytes", ".1f", 1e6)),
    ),
    "rollout": (
        ("what", 12, lambda record: record["implementation"]),
        ("rows", 5, _number("environments", "d")),
        ("trials", 6, _number("trials", "d")),
        ("tokens", 7, _number("tokens", "d")),
        ("steps", 6, _number("steps", "d")),
        *_TIME,
        ("steps/s", 9, _number("steps_per_second", ".0f")),
        ("speed x", 8, _number("speed_ratio", ".3f")),
        ("cpu x", 8, _number("cpu_ratio", ".5f")),
        ("wall x", 8, _number("wall_ratio", ".5f")),
    ),
    "store": (
        ("what", 24, lambda record: record["implementation"]),
        ("steps", 9, _number("steps", "d")),
        ("cpu s", 9, _number("cpu_seconds")),
        ("wall s", 9, _number("wall_seconds")),
        ("before MB", 9, _number("anonymous_bytes_before", ".1f", 1e6)),
        ("most MB", 9, _number("anonymous_bytes", ".1f", 1e6)),
        ("arrays MB", 9, _number("array_bytes", ".1f", 1e6)),
    ),
    "gpu": (
        ("what", 44, lambda record: record["implementation"]),
        ("found", 10, _number("found")),
        ("bar", 12, lambda record: record["bar"]),
        ("met", 4, lambda record: "yes" if record["met"] else "NO"),
    ),
    "tune": (
        ("kernel", 8, lambda record: record["implementation"]),
        ("width", 6, _number("head_dim", "d")),
        ("pass", 8, lambda record: record["pass"]),
        ("queries", 8, _number("q", "d")),
        ("keys", 6, _number("k", "d")),
        ("stages", 7, _number("stages", "d")),
        ("groups", 7, _number("groups", "d")),
        ("ms", 9, _number("wall_seconds", ".3f", 1e-3)),
        ("kept", 5, lambda record: "yes" if record.get("kept") else ""),
    ),
    "decode": (
        *_WHO,
        *_TIME,
        ("cpu x", 9, _number("cpu_ratio")),
        ("wall x", 9, _number("wall_ratio")),
        ("GB/s", 8, _number("bytes_per_second", ".4g", 1e9)),
        ("of rate", 8, _number("bandwidth_ratio", ".3f")),
        _TEMP,
        ("error", 9, _number("max_abs_error", ".2g")),
    ),
}


def heading(benchmark: str) -> str:
    """The line above the records of a benchmark."""
    return _join((name, width) for name, width, _ in _COLUMNS[benchmark])


def line(record: Record) -> str:
    """A record as a line under `heading`; one that failed says why."""
    columns = _COLUMNS[record["benchmark"]]
    if "error" in record:
        who = _join((text(record), width) for _, width, text in columns[: len(_WHO)])
        return f"{who}  {record['error']}"
    return _join((text(record), width) for _, width, text in columns)


def _join(cells: Any) -> str:
    """The first cell to the left, the others to the right."""
    (first, width), *rest = cells
    aligned = [first.ljust(width), *(text.rjust(width) for text, width in rest)]
    return "  ".join(aligned).rstrip()
