"""From a contender to a compiled program, and from the program to what it holds."""

import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ring_rl.bench.config import AttentionConfig
from ring_rl.bench.contenders import TOKENS, Contender, Unable
from ring_rl.bench.machine import free_bytes
from ring_rl.bench.oracle import Inputs

_OUTPUTS = ("output", "dq", "dk", "dv")


class Program(NamedTuple):
    """A compiled contender.

    Attributes:
      contender: what was compiled.
      compiled: called with q, k, v, g and the extras on their devices.
      temp_bytes: that it takes on each device beside arguments and results, by the
        compiler's own account.
      compile_seconds: of the clock.
    """

    contender: Contender
    compiled: Any
    temp_bytes: int
    compile_seconds: float


def build(contender: Contender, config: AttentionConfig, mesh: Mesh) -> Program:
    """Compiles a contender from shapes alone: no array is made.

    Raises:
      Unable: it does not compile.
    """

    def step(q, k, v, g, *extras):
        if not config.backward:
            return (contender.attend(q, k, v, *extras),)
        output, pull_back = jax.vjp(
            lambda q, k, v: contender.attend(q, k, v, *extras), q, k, v
        )
        return (output, *pull_back(g))

    def array(shape: tuple[int, ...], dtype: Any, spec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    start = (config.batch, config.tokens)
    q = array((*start, config.heads, config.head_dim), config.dtype, TOKENS)
    k = array((*start, config.key_heads, config.head_dim), config.dtype, TOKENS)
    extras = [
        jax.tree.map(lambda x, spec=spec: array(x.shape, x.dtype, spec), extra)
        for extra, spec in zip(contender.extras, contender.specs, strict=True)
    ]
    began = time.perf_counter()
    try:
        # A peer's warnings are not ours to show.
        with warnings.catch_warnings(), jax.default_matmul_precision(config.precision):
            warnings.simplefilter("ignore")
            jitted = jax.jit(step, out_shardings=NamedSharding(mesh, TOKENS))
            compiled = jitted.lower(q, k, k, q, *extras).compile()
    except jax.errors.JaxRuntimeError as error:
        raise Unable(f"does not compile: {_first_line(error)}") from None
    seconds = time.perf_counter() - began
    return Program(contender, compiled, temp_bytes(compiled), seconds)


def temp_bytes(compiled: Any) -> int:
    """What a compiled program takes on each device beside arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def check_room(program: Program, devices: int) -> None:
    """Raises Unable for a program that the machine has no memory for."""
    free = free_bytes(devices)
    if free is not None and program.temp_bytes > free:
        raise Unable(
            f"not run: needs {program.temp_bytes / 1e9:.1f} GB of temporary memory on "
            f"each device, {free / 1e9:.1f} GB are free"
        )


def place(contender: Contender, inputs: Inputs, mesh: Mesh) -> tuple[Any, ...]:
    """The program's arguments on their devices, in the contender's order."""
    order = slice(None) if contender.order is None else contender.order

    def put(x: Any, spec) -> Any:
        return jax.device_put(x, NamedSharding(mesh, spec))

    arrays = [put(x[:, order], TOKENS) for x in inputs]
    extras = [
        put(
            jax.tree.map(lambda x: x[:, order], extra) if spec == TOKENS else extra,
            spec,
        )
        for extra, spec in zip(contender.extras, contender.specs, strict=True)
    ]
    return (*arrays, *extras)


def natural(contender: Contender, results: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """A program's results by name, on the host, in natural order."""
    order = contender.order
    back = slice(None) if order is None else np.argsort(order)
    return {
        name: np.asarray(result)[:, back]
        for name, result in zip(_OUTPUTS, results, strict=False)
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
