"""Operations against those of the traced training step."""

import math

import pytest

from ring_rl.nn.trunk import TrunkConfig
from ring_rl.plan import flops
from ring_rl.plan.compiled import trace_step
from ring_rl.plan.context import Context
from ring_rl.plan.hardware import HARDWARE, choose_hardware
from ring_rl.plan.models import Model, choose_model


def products(jaxpr) -> int:
    """Operations of the matrix products of a traced function, loops included."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        assert name != "while", "a loop whose turns are not known"
        if name == "dot_general":
            summed = parameters["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            result = math.prod(equation.outvars[0].aval.shape)
            total += 2 * result * math.prod(shape[axis] for axis in summed)
        turns = parameters["length"] if name == "scan" else 1
        for value in parameters.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += turns * products(inner)
    return total


@pytest.mark.parametrize("chunk", [64, 4096])
@pytest.mark.parametrize("remat", ["none", "block", "all"])
def test_operations_are_those_of_the_traced_step(remat, chunk):
    trunk = TrunkConfig(
        layers=3, width=32, heads=2, kv_heads=1, feed_forward=80, chunk=chunk,
        remat=remat, attention="reference",
    )  # fmt: skip
    model = Model("test", trunk, observation=7, action=3)
    context = Context(trajectories=2, steps=64, tokens_per_step=2)
    found = flops.count(model, context)
    # `reference` compares all pairs, in two products forward and four backward, and
    # again the two forward: `block` keeps nothing of it, since it names nothing.
    passes = 12 if remat == "none" else 16
    of_attention = passes * trunk.layers * context.tokens**2 * trunk.width
    traced = products(trace_step(model, context).jaxpr.jaxpr)
    assert traced - of_attention == sum(found) - found.attention


def test_attention_counts_pairs_that_are_not_masked():
    model = choose_model("350m")
    context = Context(trajectories=2, steps=10, tokens_per_step=3, rows=2)
    pairs = 2 * (60 * 61 // 2)
    assert flops.count(model, context).attention == 14 * 24 * pairs * 1024


def test_seconds_are_operations_at_the_peak_rate_and_what_is_not_hidden():
    model, hardware = choose_model("350m"), HARDWARE["a100-nvlink"]
    context = Context(trajectories=128, devices=8)
    found, operations = (
        flops.seconds(model, context, hardware), flops.count(model, context)
    )  # fmt: skip
    rate = 8 * 312e12
    assert found.attention == pytest.approx(operations.attention / rate)
    assert found.feed_forward == pytest.approx(operations.feed_forward / rate)
    # 64,000 tokens a device hide all but the last gradients of each block.
    last = 24 * 4 * 2 * 64_000 * 1024 / 300e9
    assert found.exposed == pytest.approx(last)
    # On a slow link some of every hop is seen, and the whole of it on a slower one.
    slow = flops.seconds(model, context, choose_hardware("a100-nvlink", link=1e9))
    assert slow.exposed > 100 * found.exposed
    # A contiguous ring waits for its last device.
    waiting = flops.seconds(
        model, Context(128, devices=8, layout="contiguous"), hardware
    )
    assert waiting.attention == pytest.approx(found.attention * 15 / 8)
