"""Runs every combination of `matrix` and prints how far each is from the f64 oracle.

    python tests/attention/exactness_matrix.py [--devices 1,2] [--kernel triton]

Ends with status 1 if anything is out of bounds. Nearly all of the time is compilation.
"""

import argparse
import functools
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A script's own folder is on the path, but not the one that makes it a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jaxlib  # noqa: E402
import numpy as np  # noqa: E402
from attention.matrix import (  # noqa: E402
    FACTORS,
    NUMBERS,
    Case,
    Verdict,
    all_cases,
    judge,
    program,
)
from attention.results import Results  # noqa: E402

Verdicts = dict[Case, Verdict]


def main(arguments: list[str] | None = None) -> int:
    """Returns the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--devices", type=_devices, default=FACTORS.devices,
        help="numbers of devices, comma-separated; 0 is blockwise without a ring",
    )  # fmt: skip
    parser.add_argument(
        "--kernel", default="blockwise", choices=("blockwise", "triton"),
        help="what computes a hop; triton is run by JAX where there is no GPU",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="where to put every error and bound")
    options = parser.parse_args(arguments)
    jax.config.update("jax_num_cpu_devices", 8)
    cases = [case for case in all_cases() if case.devices in options.devices]
    if options.kernel == "triton":
        # JAX's interpreter of kernels fails the checks of what differs by device.
        jax.shard_map = functools.partial(jax.shard_map, check_vma=False)
    verdicts = _judge_all(cases, options.kernel)
    _print_table(verdicts)
    bad = [case for case, verdict in verdicts.items() if not verdict.good]
    for case in bad:
        print(f"out of bounds: {case}: {_excess(verdicts[case])}")
    seconds = time.process_time()
    print(f"{len(cases)} cases, {len(bad)} out of bounds, {seconds:.0f} CPU-seconds")
    if options.json:
        options.json.write_text(json.dumps(_record(verdicts, seconds), indent=1) + "\n")
    return 1 if bad else 0


def _devices(text: str) -> tuple[int, ...]:
    try:
        devices = tuple(map(int, text.split(",")))
    except ValueError:
        devices = ()
    if not devices or not set(devices) <= set(FACTORS.devices):
        raise argparse.ArgumentTypeError(
            f"expected some of {FACTORS.devices}, comma-separated, found {text!r}"
        )
    return devices


def _judge_all(cases: list[Case], kernel: str) -> Verdicts:
    """Verdicts of all cases, and on the error stream how far it is."""
    programs = len({program(case) for case in cases})
    verdicts, seen = {}, {}
    for case in cases:
        if program(case) not in seen:
            seen[program(case)] = None
            if len(seen) % 16 == 0:
                # Every compiled program holds maps of memory, of which Linux allows
                # 65,530 a process; without this the compiler died at program 162.
                jax.clear_caches()
                gc.collect()
            done = f"{len(verdicts)}/{len(cases)} cases"
            print(
                f"{done}, {time.process_time():.0f} CPU-seconds; "
                f"program {len(seen)}/{programs}: {program(case)}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        verdicts[case] = judge(case, kernel)
    return verdicts


def _worst(verdicts: Iterable[Verdict], share: Callable[[float, float], float]):
    """Of the output, and of the gradients; NaN if one of them is."""
    shares = np.array(
        [list(map(share, v.errors, v.bounds)) for v in verdicts], np.float64
    )
    return shares[:, 0].max(), shares[:, 1:].max()


def _print_table(verdicts: Verdicts) -> None:
    """The worst of both kinds of heads and both rates of dropout."""
    columns: dict[str, Any] = {
        # What is shown of an error and its bound, and how.
        "f32": (lambda error, bound: error, "{:.1e}"),
        "f32x3": (lambda error, bound: 2 * error / bound, "{:.2f}"),
        "f32x5": (lambda error, bound: 2 * error / bound, "{:.2f}"),
        "bf16": (lambda error, bound: error / bound, "{:.2f}"),
    }
    assert columns.keys() == NUMBERS.keys()
    print(
        "Output and gradients, the worst of each.\n"
        "f32: largest error, relative to the oracle's largest entry; at most 2e-6 and "
        "1e-5.\n"
        "f32x3, f32x5: root mean square error, as multiple of that of `reference`; at "
        "most 2.\n"
        "bf16: largest share of what roundings explain at an entry; at most 1.\n"
    )

    def line(titles, cells):
        first = "{:7} {:10} {:8}".format(*titles)
        print(first + "".join(f" |{a:>8}{b:>8}" for a, b in cells))

    line(("devices", "layout", "mask"), [(name, "") for name in columns])
    # The last line is the worst of all.
    for row in [*dict.fromkeys(case[:3] for case in sorted(verdicts)), ("all", "", "")]:
        of_row = [case for case in verdicts if row in (case[:3], ("all", "", ""))]
        cells = []
        for name, (share, form) in columns.items():
            found = [verdicts[case] for case in of_row if case.numbers == name]
            cells.append([form.format(x) for x in _worst(found, share)])
        line(row, cells)


def _excess(verdict: Verdict) -> str:
    """The results that are out of bounds."""
    return ", ".join(
        f"{name} {error:.2g} above {bound:.2g}"
        for name, error, bound in zip(Results._fields, *verdict, strict=True)
        if not error <= bound
    )


def _plain(verdict: Verdict) -> dict[str, dict[str, float]]:
    return {
        "errors": verdict.errors._asdict(), "bounds": verdict.bounds._asdict()
    }  # fmt: skip


def _record(verdicts: Verdicts, seconds: float) -> dict[str, Any]:
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "platform": jax.default_backend(),
        "processor": platform.machine(),
        "cpu_seconds": round(seconds, 1),
        "out_of_bounds": sum(not verdict.good for verdict in verdicts.values()),
        "cases": [
            {**case._asdict(), **_plain(verdict)} for case, verdict in verdicts.items()
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
