"""The implementations of ring_rl as programs to be raced."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ring_rl.attention import attention, permutation, ring_attention
from ring_rl.attention.layout import balance, count_hops
from ring_rl.bench.config import AttentionConfig
from ring_rl.mesh import SEQUENCE

# Of arrays `[B T ...]`.
TOKENS = PartitionSpec(None, SEQUENCE)
REPLICATED = PartitionSpec()
DROPOUT_SEED = 0


class Unable(Exception):
    """A contender cannot do what is asked: the message is its line in the results."""


class Contender(NamedTuple):
    """Something that computes attention of global arrays on a mesh.

    Attributes:
      name: in the results.
      attend: (q, k, v, *extras) to the output, all `[B T heads H]` in `order`.
      extras: host arrays, or pytrees of them, that are arguments too.
      specs: how each of the extras lies on the mesh.
      order: natural index of the token in each place, or None for the natural order.
      notes: what its record says besides.
      same: whether it is the same work, so that its results are the oracle's.
    """

    name: str
    attend: Callable[..., jax.Array]
    extras: tuple[Any, ...] = ()
    specs: tuple[PartitionSpec, ...] = ()
    order: np.ndarray | None = None
    notes: dict[str, Any] = {}
    same: bool = True


def make_own(name: str, config: AttentionConfig, mesh: Mesh) -> Contender:
    """An implementation of ring_rl on the problem of a configuration.

    A single device's implementation on several devices is left to the compiler.
    `tiles` is `blockwise` by its portable kernel, whatever the device.
    """
    if name == "tiles":
        portable = dataclasses.replace(config, kernel="blockwise")
        return make_own("blockwise", portable, mesh)._replace(name="tiles")
    if name == "ring":
        return _ring(config, mesh)
    options = _options(config)
    if name == "blockwise":
        options["kernel"] = _kernel(config)
    attend = functools.partial(attention, implementation=name, **options)
    return _with_mask(config, name, attend)


def _ring(config: AttentionConfig, mesh: Mesh) -> Contender:
    layout, R = config.chosen_layout(), config.devices
    order = permutation(layout, config.tokens, R)
    options = _options(config) | {"kernel": _kernel(config)}
    mask = config.mask.on_host(1, config.tokens)
    notes: dict[str, Any] = {"layout": layout}
    notes["balance"] = round(balance(mask, layout, R)[1], 4)
    # A window is what a user knows of before the data; the hops of segments vary.
    if config.mask.window is not None:
        stored = jax.tree.map(lambda x: x[:, order], mask)
        options["hops"] = notes["hops"] = count_hops(stored, R)
    attend = functools.partial(ring_attention, mesh=mesh, axis_name=SEQUENCE, **options)
    contender = _with_mask(config, "ring", attend)
    return contender._replace(order=order, notes=contender.notes | notes)


def _kernel(config: AttentionConfig) -> str | None:
    return None if config.kernel == "auto" else config.kernel


def _options(config: AttentionConfig) -> dict[str, Any]:
    given: dict[str, Any] = {
        "block_q": config.block_q or None,
        "block_k": config.block_k or None,
    }
    if config.dropout:
        given["dropout_rate"] = config.dropout
    return given


def _with_mask(config: AttentionConfig, name: str, attend) -> Contender:
    """With mask and dropout's key as arguments: constants could be folded."""
    extras, specs = (config.host_mask(),), (TOKENS,)
    if not config.dropout:
        run = attend
    else:
        key_data = np.asarray(jax.random.key_data(jax.random.key(DROPOUT_SEED)))
        extras, specs = (*extras, key_data), (*specs, REPLICATED)

        def run(q, k, v, mask, key_data):
            key = jax.random.wrap_key_data(key_data)
            return attend(q, k, v, mask, dropout_key=key)

    notes = {"block_q": config.block_q or None, "block_k": config.block_k or None}
    return Contender(name, run, extras, specs, notes=notes)
