"""`ring-rl bench decode`: one acting step's attention against a long cache.

Beside it stand the least that any decode must do, which is to read the cached keys and
values once, and what doing without a cache would cost.
"""

import dataclasses
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


def measure(config: AttentionConfig, say: Say) -> Iterator[Record]:
    """Records of `decode`, of `sum` and of `ring`, with decode's share of the others.

    `config.tokens` are cached; the step has one new token a row, later than all.

    Raises:
      ValueError: there are not so many devices.
    """
    mesh = make_mesh(MeshConfig(sequence=config.devices))
    whole = dataclasses.replace(config, implementation="ring", backward=False)
    inputs = whole.inputs()
    query = inputs.q[:, -1:]
    exact = expected(
        Inputs(query, inputs.k, inputs.v, query),
        np.arange(1),
        lambda rows: np.ones((1, config.tokens), bool),
        backward=False,
    )["output"]

    def put(x: Any, spec: PartitionSpec) -> Any:
        return jax.device_put(x, NamedSharding(mesh, spec))

    q = put(query, _SAME)
    k, v = (put(np.swapaxes(x, 1, 2), _CACHE) for x in (inputs.k, inputs.v))
    places = np.tile(np.arange(config.tokens, dtype=np.int32), (config.batch, 1))
    k_order = tuple(put(x, _ORDER) for x in (places, np.zeros_like(places)))
    here = np.full((config.batch, 1), config.tokens, np.int32)
    q_order = tuple(put(x, _SAME) for x in (here, np.zeros_like(here)))
    arguments = {"decode": (q, k, v, q_order, k_order), "sum": (k, v)}
    compiled = {}
    for name, program in (("decode", _decode(mesh)), ("sum", _sum(mesh))):
        say(f"compile {name}")
        compiled[name] = jax.jit(program).lower(*arguments[name]).compile()
    temp = {name: temp_bytes(program) for name, program in compiled.items()}
    say("compile ring")
    ring = build(make_own("ring", whole, mesh), whole, mesh)
    compiled["ring"], temp["ring"] = ring.compiled, ring.temp_bytes
    arguments["ring"] = place(ring.contender, inputs, mesh)
    calls, errors = {}, {}
    for name, program in compiled.items():
        say(f"warm up {name}")
        result, calls[name] = warm_up(
            lambda program=program, name=name: program(*arguments[name])
        )
        if name == "decode":
            errors[name] = float(np.abs(np.asarray(result, np.float64) - exact).max())
    times = race(calls, config.runs, say)
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
        if name != "decode":
            for clock in ("cpu", "wall"):
                share = times["decode"].share(times[name], clock)
                record[f"{clock}_ratio"] = share
        # A decode makes one token, whatever it has to read for that.
        made = config.tokens if name == "ring" else 1
        yield record | rates({**record, "tokens": made})


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
