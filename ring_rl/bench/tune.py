"""`ring-rl bench tune`: times how the kernels can be cut, and keeps the fastest.

The three passes one after the other: forward; then backward by the cut of its pass over
queries, the other as it is; then by that of its pass over keys.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ring_rl.attention import Mask
from ring_rl.attention.kernels import KERNELS, tuning
from ring_rl.attention.kernels.tuning import Launch, Launches, ShapeClass
from ring_rl.attention.tiles import Blocks
from ring_rl.bench.config import check_choice, check_counts
from ring_rl.bench.records import Record, Say, make_record
from ring_rl.bench.timing import race, warm_up

# Another cut rounds otherwise; more than this share of the largest entry is wrong.
_TOLERANCE = 2.0**-5


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """The class of shapes, and the problem that stands for it: causal, batch 1.

    Attributes:
      kernel: `hopper` or `triton`.
      tokens: T = S.
      heads: N.
      head_dim: H.
      dtype: of the inputs.
      runs: timed calls of each candidate, of which the median counts.
    """

    kernel: str = "hopper"
    tokens: int = 32768
    heads: int = 16
    head_dim: int = 64
    dtype: str = "bfloat16"
    runs: int = 3

    def __post_init__(self):
        """Checks the values."""
        check_counts(self, ("tokens", "heads", "head_dim", "runs"), least=1)
        check_choice(self, "kernel", ("hopper", "triton"))
        check_choice(self, "dtype", ("float32", "bfloat16", "float16"))


def measure(config: TuneConfig, say: Say) -> Iterator[Record]:
    """A record for each candidate of each pass; `kept` is the fastest of its pass.

    A candidate that does not compile, or computes something else, has an `error`.

    Raises:
      ValueError: there is no GPU, or the kernel cannot do this here.
    """
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "gpu":
        raise ValueError(f"bench: tune needs a GPU, found {kind}")
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (1, config.tokens, config.heads, config.head_dim)
    arrays = [jax.random.normal(key, shape, config.dtype) for key in keys]
    if reason := KERNELS[config.kernel].supports(arrays[0], None):
        raise ValueError(f"bench: kernel {config.kernel!r} {reason}")
    shapes = tuning.shape_class(config.kernel, arrays[0])
    best = tuning.choose_launches(config.kernel, arrays[0])
    for name in Launches._fields:
        records = list(_time_pass(config, shapes, best, name, arrays, say))
        timed = [record for record in records if "error" not in record]
        if timed:
            fastest = min(timed, key=lambda record: record["wall_seconds"])
            fastest["kept"] = True
            launch = Launch(*(fastest[field] for field in Launch._fields))
            best = best._replace(**{name: launch})
            # Pass by pass: what was found is not lost if the next is ended.
            say(f"kept in {tuning.keep_launches(shapes, best)}")
        yield from records


def _time_pass(
    config: TuneConfig, shapes: ShapeClass, best: Launches, name: str,
    arrays: list[jax.Array], say: Say,
) -> Iterator[Record]:  # fmt: skip
    """The launch that there is first: what it computes is what all must."""
    standing = getattr(best, name)
    others = [x for x in tuning.candidates(shapes) if x != standing]
    expected: Any = None
    for number, launch in enumerate((standing, *others)):
        say(f"{name} {number + 1} of {len(others) + 1}")
        record = make_record(
            "tune",
            implementation=config.kernel,
            **{"pass": name},
            **dataclasses.asdict(config),
            **launch._asdict(),
        )
        try:
            with tuning.trying(shapes, best._replace(**{name: launch})):
                run = functools.partial(_program(config, name), *arrays)
                result, call = warm_up(run)
        except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            yield record | {"error": f"failed: {lines[0][:120]}"}
            continue
        found = [np.asarray(x, np.float32) for x in result]
        expected = found if expected is None else expected
        apart = max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in zip(found, expected, strict=True)
        )
        if not apart <= _TOLERANCE:
            yield record | {"error": f"results are off by {apart:.1g}"}
            continue
        times = race({"it": call}, config.runs, lambda text: None)["it"]
        yield record | times.summary()


def _program(config: TuneConfig, name: str):
    """Forward's output, or the gradients, as a program that is compiled anew."""
    kernel = KERNELS[config.kernel]
    scale = 1 / math.sqrt(config.head_dim)
    rules: dict[str, Any] = {"scale": scale, "blocks": Blocks()}

    def run(q, k, v, g):
        positions = jnp.arange(config.tokens, dtype=jnp.int32)[None]
        mask = Mask.self_attention(positions, jnp.zeros_like(positions))
        if name == "forward":
            o, _, l = kernel.forward(q, k, v, mask, **rules)  # noqa: E741
            return (o / l[..., None],)
        # As if all weights were exp(score - shift): none overflows.
        shift = jnp.full(q.shape[:3], 4 * math.sqrt(config.head_dim), jnp.float32)
        delta = jnp.zeros_like(shift)
        return kernel.backward(q, k, v, g, shift * scale, delta, mask, **rules)

    return jax.jit(run)
