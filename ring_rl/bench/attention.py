"""`ring-rl bench attention`: time, memory and error of attention, beside its peers."""

import math
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ring_rl.bench.config import AttentionConfig
from ring_rl.bench.contenders import DROPOUT_SEED, Unable
from ring_rl.bench.matmul import best_rates, products
from ring_rl.bench.oracle import Inputs, expected, largest_errors, sample_rows
from ring_rl.bench.peers import make_contender
from ring_rl.bench.program import Program, build, check_room, natural, place
from ring_rl.bench.records import Record, Say, make_record, rates
from ring_rl.bench.timing import Call, Times, race, warm_up
from ring_rl.mesh import MeshConfig, make_mesh


class _Exact(NamedTuple):
    """What the oracle says of the inputs, at query rows of natural indices."""

    inputs: Inputs
    rows: np.ndarray
    values: dict[str, np.ndarray]


class _Entry(NamedTuple):
    """A program that has run once, how to time it, and how far off it was."""

    program: Program
    call: Call
    errors: dict[str, Any]


def measure(config: AttentionConfig, say: Say) -> Iterator[Record]:
    """The implementation's record, then one for each peer.

    All run in this process in turn. A peer's `cpu_ratio`, `wall_ratio` and
    `temp_ratio` are the implementation's share of what the peer takes, the times' run
    by run. A contender that cannot do what is asked has a record with an `error`.
    `matmul_gflops` is the rate of the fastest tile-sized product in the same runs, per
    CPU-second on a CPU and per second of the clock elsewhere, as `matmul_seconds` says.

    Raises:
      ValueError: there are not so many devices.
    """
    mesh = make_mesh(MeshConfig(sequence=config.devices))
    say("oracle")
    exact = _exact(config)
    entries: dict[str, _Entry] = {}
    failures: dict[str, str] = {}
    for name in config.contenders:
        say(f"compile {name}")
        try:
            program = build(make_contender(name, config, mesh), config, mesh)
            check_room(program, config.devices)
            say(f"warm up {name}")
            entries[name] = _enter(program, exact, mesh)
        except Unable as error:
            failures[name] = str(error)
    say("matmul")
    with jax.default_matmul_precision(config.precision):
        tiles = products(config.head_dim, config.dtype)
    calls = {name: entry.call for name, entry in entries.items()}
    calls |= {name: product.call for name, product in tiles.items()}
    times = race(calls, config.runs, say)
    clock = "cpu" if jax.default_backend() == "cpu" else "wall"
    tile, ceiling = best_rates(tiles, times, clock)
    own = entries.get(config.implementation)
    for name in config.contenders:
        if name in failures:
            yield make_record(
                "attention",
                **config.values(),
                implementation=name,
                error=failures[name],
            )
            continue
        record = _record(config, entries[name], times[name])
        # What the flops would take at each run's ceiling.
        least = [config.flops / rate for rate in ceiling]
        record |= {
            "matmul_gflops": statistics.median(ceiling) / 1e9,
            "matmul_seconds": clock,
            "matmul_tile": tile,
            "matmul_share": Times(least, least).share(times[name], clock),
        }
        if own is not None and name != config.implementation:
            mine = times[config.implementation]
            record |= {
                "cpu_ratio": mine.share(times[name], "cpu"),
                "wall_ratio": mine.share(times[name], "wall"),
                "temp_ratio": own.program.temp_bytes
                / max(1, entries[name].program.temp_bytes),
            }
        yield record


def _exact(config: AttentionConfig) -> _Exact:
    inputs, rows = config.inputs(), sample_rows(config.tokens)
    values = expected(
        inputs,
        rows,
        lambda some: config.mask.seen(some, config.tokens),
        backward=config.backward,
        **({"factors": _dropout(config)} if config.dropout else {}),
    )
    return _Exact(inputs, rows, values)


def _dropout(config: AttentionConfig):
    """The dropout factors of some query rows, by the one function that defines them."""
    from ring_rl.attention.dropout import dropout_factor, make_dropout

    key = jax.random.key(DROPOUT_SEED)
    dropout = make_dropout(config.dropout, key, config.batch, config.heads)
    assert dropout is not None
    index = jnp.arange(config.tokens, dtype=jnp.int32)
    tokens = jnp.tile(index, (config.batch, 1))

    def factors(rows: np.ndarray) -> np.ndarray:
        found = dropout_factor(dropout, tokens[:, rows], tokens, np.float32)
        return np.asarray(found, np.float64)

    return factors


def _enter(program: Program, exact: _Exact, mesh: Mesh) -> _Entry:
    """Runs a program once. Raises Unable if it fails or what it gives is no number."""
    try:
        arguments = place(program.contender, exact.inputs, mesh)
        result, call = warm_up(lambda: program.compiled(*arguments))
    except jax.errors.JaxRuntimeError as error:
        raise Unable(f"failed: {str(error).splitlines()[0][:200]}") from None
    if not program.contender.same:
        return _Entry(program, call, {})
    found = natural(program.contender, result)
    each = largest_errors(found, exact.values, exact.rows)
    worst = max(each.values())
    if not all(map(math.isfinite, each.values())):
        raise Unable("its results are not finite numbers")
    rows = len(exact.rows)
    errors = {"max_abs_error": worst, "errors": each, "error_rows": rows}
    return _Entry(program, call, errors)


def _record(config: AttentionConfig, entry: _Entry, times: Times) -> Record:
    program = entry.program
    record = make_record(
        "attention",
        **config.values(),
        implementation=program.contender.name,
        **times.summary(),
        runs=config.runs,
        temp_bytes_per_device=program.temp_bytes,
        compile_seconds=round(program.compile_seconds, 2),
        flops=config.flops,
        **program.contender.notes,
        **entry.errors,
    )
    return record | rates(record)
