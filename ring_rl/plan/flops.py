"""Floating-point operations of an update, and how long they take at the peak rate."""

from typing import NamedTuple

from ring_rl.plan import communication
from ring_rl.plan.context import Context
from ring_rl.plan.hardware import Hardware
from ring_rl.plan.models import Model
from ring_rl.plan.sizes import Sizes


class Flops(NamedTuple):
    """Of the matrix products of one update, over all devices.

    Attributes:
      attention: scores and weighted values over pairs that are not masked.
      projections: to queries, keys and values, and back.
      feed_forward: its two products.
      head: the embedding and the logits.
    """

    attention: int
    projections: int
    feed_forward: int
    head: int


class Seconds(NamedTuple):
    """Of one update, if every matrix product ran at the peak rate.

    Attributes:
      attention: waiting for the ring's slowest device included.
      projections: likewise without.
      feed_forward: likewise.
      head: likewise.
      exposed: the ring's traffic that compute does not hide.
      gradients: their sum over the devices.
    """

    attention: float
    projections: float
    feed_forward: float
    head: float
    exposed: float
    gradients: float


def count(model: Model, context: Context) -> Flops:
    """The operations of an update.

    A product forward is two backward. Backward computes a block again: the
    projections, and of the feed-forward the first product, since nothing needs the
    result of the second; attention only where `remat` is `all`.
    """
    trunk, tokens = model.trunk, context.rows * context.tokens
    chain = context.chain_tokens
    pairs = context.rows * chain * (chain + 1) // 2
    again = 0 if trunk.remat == "none" else 1
    attention = 14 + (4 if trunk.remat == "all" else 0)
    # A chunk is computed again whatever `remat` says.
    chunked = Sizes.of(model, context).chunked
    hidden = 6 + (1 if again or chunked else 0)
    logits = 6 + (2 if chunked else 0)
    # Nobody asks for the gradient of the fields, and nothing is computed again.
    embedding = 4
    return Flops(
        attention=attention * trunk.layers * pairs * trunk.width,
        projections=(6 + 2 * again) * trunk.layers * tokens * model.projections,
        feed_forward=(
            2 * hidden * trunk.layers * tokens * trunk.width * model.feed_forward
        ),
        head=tokens
        * trunk.width
        * (logits * model.outputs + embedding * model.embedding_inputs),
    )


def seconds(model: Model, context: Context, hardware: Hardware) -> Seconds:
    """How long an update takes at the peak rate."""
    trunk, layout, ring = model.trunk, context.chosen_layout, context.ring
    sizes, rate = Sizes.of(model, context), hardware.flops(trunk.dtype)
    flops = count(model, context)
    peak = context.devices * rate
    useful = communication.useful_share(layout, ring)
    traffic = communication.ring_traffic(
        sizes.tokens,
        kv_heads=model.kv_heads,
        head_width=model.head_width,
        itemsize=model.itemsize,
        devices=ring,
    )
    # Of a hop: a block of queries against one of keys.
    share = communication.unmasked_share(layout, ring)
    pairs = sizes.rows * sizes.length**2 * share
    forward, backward = (n * pairs * trunk.width / rate for n in (4, 10))
    passes = 2 if trunk.remat == "all" else 1
    waits = traffic.hops * (
        passes * communication.exposed(traffic.hop_forward / hardware.link, forward)
        + communication.exposed(traffic.hop_backward / hardware.link, backward)
    )
    exposed = trunk.layers * (waits + traffic.exposed / hardware.link)
    # A ring's all-reduce sends all but one part, twice.
    others = (context.devices - 1) / context.devices
    gradients = 2 * others * 4 * model.parameters / hardware.link
    return Seconds(
        attention=flops.attention / peak / useful,
        projections=flops.projections / peak,
        feed_forward=flops.feed_forward / peak,
        head=flops.head / peak,
        exposed=exposed,
        gradients=gradients,
    )
