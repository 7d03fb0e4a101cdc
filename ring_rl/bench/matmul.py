"""The machine's matmul rate on tiles as attention has them: the ceiling of its own."""

import functools
import statistics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ring_rl.bench.timing import Call, Times, warm_up

TILES = (128, 256, 512, 1024)
# Of one timed program: long beside its dispatch, short beside what it is printed with.
_CPU_FLOPS = 2e9
_ACCELERATOR_FLOPS = 1e12
# Narrow operands that take turns, so that no product can be done once for all. They
# are copied out each time; the wide one, which stays, is not.
_NARROW = 4


class Product(NamedTuple):
    """One kind of product, and how many floating-point operations one call makes."""

    call: Call
    flops: float


def products(width: int, dtype: str) -> dict[str, Product]:
    """Programs of `[C H] x [H C]`, the scores, and `[C C] x [C H]`, the values.

    A CPU does one product after the other, as it works through tiles; other devices,
    which a single tile does not fill, do 64 at once.
    """
    cpu = jax.default_backend() == "cpu"
    together = 1 if cpu else 64
    found = {}
    for C in TILES:
        flops = 2 * C * C * width * together
        turns = max(1, int((_CPU_FLOPS if cpu else _ACCELERATOR_FLOPS) / flops))
        narrow = _operand(dtype, _NARROW, together, C, width)
        wide = _operand(dtype, together, width, C)
        square = _operand(dtype, together, C, C)
        for name, program in (
            (f"[{C},{width}]x[{width},{C}]", functools.partial(_scores, narrow, wide)),
            (f"[{C},{C}]x[{C},{width}]", functools.partial(_values, square, narrow)),
        ):
            run = functools.partial(program, turns)
            found[name] = Product(warm_up(run)[1], flops * turns)
    return found


def _operand(dtype: str, *shape: int) -> jax.Array:
    random = np.random.default_rng(0)
    return jnp.asarray(random.standard_normal(shape, np.float32), dtype)


@functools.partial(jax.jit, static_argnums=2)
def _scores(narrow, wide, turns: int):
    return _repeat(lambda turn: narrow[turn % _NARROW] @ wide, turns)


@functools.partial(jax.jit, static_argnums=2)
def _values(square, narrow, turns: int):
    return _repeat(lambda turn: square @ narrow[turn % _NARROW], turns)


def _repeat(product, turns: int):
    """The last of `turns` products."""
    nothing = jnp.zeros_like(product(0))
    return jax.lax.fori_loop(0, turns, lambda turn, _: product(turn), nothing)


def best_rates(
    programs: dict[str, Product], times: dict[str, Times], clock: str
) -> tuple[str, list[float]]:
    """Operations per second of `clock` (cpu or wall) of each run's fastest product.

    And first the name of the product that was the fastest on the whole.
    """
    rates = {
        name: [product.flops / seconds for seconds in getattr(times[name], clock)]
        for name, product in programs.items()
    }
    name = max(rates, key=lambda name: statistics.median(rates[name]))
    return name, [max(run) for run in zip(*rates.values(), strict=True)]
