"""`ring-rl bench decode`: one acting step's attention against a long cache.

Beside it stand the least that any decode must do, which is to read the cached keys and
values once, a plain copy of them, and what doing without a cache would cost.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ring_rl.attention import Mask, decode_attention
from ring_rl.bench.config import AttentionConfig
from ring_rl.bench.contenders import make_own
from ring_rl.bench.oracle import Inputs, expected
from ring_rl.bench.program import build, place, temp_bytes
from ring_rl.bench.records import Record, Say, make_record, rates
from ring_rl.bench.timing import race, warm_up
from ring_rl.mesh import SEQUENCE, MeshConfig, make_mesh

# The cache lies as `ring_rl.nn.cache` stores it: `[B K S H]`, and `[B S]`.
_CACHE, _ORDER = PartitionSpec(None, None, SEQUENCE), PartitionSpec(None, SEQUENCE)
_SAME = PartitionSpec()
# Of more cached tokens, only the first row is compared with the oracle.
_ALL_ROWS = 1 << 20


def measure(
    config: AttentionConfig, say: Say, *, ring: bool = True
) -> Iterator[Record]:
    """Records of `decode`, `sum`, `copy` and `ring`, with decode's share of the others.

    `config.tokens` are cached; the step has one new token a row, later than all.
    `bytes_per_second` are those of the cache that are read, and of a copy written too;
    `bandwidth_ratio` is decode's rate beside the other's. `ring` may be left out: it
    computes all rows' whole sequences.

    Raises:
      ValueError: there are not so many devices.
    """
    mesh = make_mesh(MeshConfig(sequence=config.devices))
    whole = dataclasses.replace(config, implementation="ring", backward=False)
    q, k, v = _draw(config, mesh)

    def put(x: Any, spec: PartitionSpec) -> Any:
        return jax.device_put(x, NamedSharding(mesh, spec))

    places = np.tile(np.arange(config.tokens, dtype=np.int32), (config.batch, 1))
    k_order = tuple(put(x, _ORDER) for x in (places, np.zeros_like(places)))
    here = np.full((config.batch, 1), config.tokens, np.int32)
    q_order = tuple(put(x, _SAME) for x in (here, np.zeros_like(here)))
    arguments = {
        "decode": (q, k, v, q_order, k_order), "sum": (k, v), "copy": (k, v)
    }  # fmt: skip
    compiled = {}
    for name, program in (
        ("decode", _decode(mesh)), ("sum", _sum(mesh)), ("copy", _copy)
    ):  # fmt: skip
        say(f"compile {name}")
        compiled[name] = jax.jit(program).lower(*arguments[name]).compile()
    temp = {name: temp_bytes(program) for name, program in compiled.items()}
    if ring:
        say("compile ring")
        again = build(make_own("ring", whole, mesh), whole, mesh)
        compiled["ring"], temp["ring"] = again.compiled, again.temp_bytes
        arguments["ring"] = place(again.contender, whole.inputs(), mesh)
    calls, errors = {}, {}
    for name, program in compiled.items():
        say(f"warm up {name}")
        result, calls[name] = warm_up(
            lambda program=program, name=name: program(*arguments[name])
        )
        if name == "decode":
            say("oracle")
            errors[name] = _error(result, q, k, v)
        del result
    times = race(calls, config.runs, say)
    read = k.nbytes + v.nbytes
    moved = {"decode": read, "sum": read, "copy": 2 * read}
    for name in compiled:
        record = make_record(
            "decode",
            **whole.values(),
            implementation=name,
            **times[name].summary(),
            runs=config.runs,
            temp_bytes_per_device=temp[name],
            max_abs_error=errors.get(name),
        )
        if name in moved:
            record["bytes_per_second"] = moved[name] / record["wall_seconds"]
        if name != "decode":
            for clock in ("cpu", "wall"):
                share = times["decode"].share(times[name], clock)
                record[f"{clock}_ratio"] = share
            if name in moved:
                # Bytes over time of decode, over those of this.
                record["bandwidth_ratio"] = read / moved[name] / record["wall_ratio"]
        # A decode makes one token, whatever it has to read for that.
        made = config.tokens if name == "ring" else 1
        yield record | rates({**record, "tokens": made})


def _draw(config: AttentionConfig, mesh: Mesh) -> tuple[jax.Array, ...]:
    """The query `[B 1 N H]` and a cache `[B K S H]`, drawn where they lie."""
    B, H = config.batch, config.head_dim
    cache = (B, config.key_heads, config.tokens, H)
    shapes = ((B, 1, config.heads, H), _SAME), (cache, _CACHE), (cache, _CACHE)

    def draw(key: Any, shape: tuple[int, ...], spec: PartitionSpec) -> jax.Array:
        normal = functools.partial(jax.random.normal, shape=shape, dtype=config.dtype)
        return jax.jit(normal, out_shardings=NamedSharding(mesh, spec))(key)

    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(draw(key, *of) for key, of in zip(keys, shapes, strict=True))


def _error(result: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> float:
    """The largest error of some rows, all of them if they are not long."""
    rows = q.shape[0] if q.shape[0] * k.shape[2] <= _ALL_ROWS else 1
    query = np.asarray(q[:rows])
    keys, values = (np.swapaxes(np.asarray(x[:rows]), 1, 2) for x in (k, v))
    exact = expected(
        Inputs(query, keys, values, query),
        np.arange(1),
        lambda some: np.ones((1, k.shape[2]), bool),
        backward=False,
    )["output"]
    return float(np.abs(np.asarray(result[:rows], np.float64) - exact).max())


def _copy(k, v):
    return jnp.copy(k), jnp.copy(v)


def _decode(mesh: Mesh):
    def local(q, k, v, q_order, k_order):
        mask = Mask(q_order[0], k_order[0], q_order[1], k_order[1])
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        scale = 1 / math.sqrt(q.shape[-1])
        return decode_attention(q, k, v, mask, axis_name=SEQUENCE, scale=scale)

    specs = (_SAME, _CACHE, _CACHE, _SAME, _ORDER)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_SAME)


def _sum(mesh: Mesh):
    """Over the tokens: it reads what decode must read, and adds it up head by head."""

    def local(k, v):
        return jax.lax.psum((k.sum(axis=2), v.sum(axis=2)), SEQUENCE)

    return jax.shard_map(local, mesh=mesh, in_specs=_CACHE, out_specs=_SAME)
