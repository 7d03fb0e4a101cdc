"""The transformer's trunk: pre-norm blocks of ring attention and chunked feed-forward.

The same blocks run over whole sequences in training and, against a cache spread over
the devices, over a few new tokens when acting.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ring_rl.attention import Mask, ring_attention
from ring_rl.attention.kernels import KERNELS
from ring_rl.mesh import ROWS, SEQUENCE, TENSOR, ShardingRules
from ring_rl.nn.cache import Cache
from ring_rl.nn.chunked import over_tokens
from ring_rl.nn.embedding import rotate
from ring_rl.nn.places import reserve, reserve_all, write, write_and_attend

# What attention calls its output and the sums that normalise it.
ATTENTION_RESIDUALS = ("attention_output", "attention_sums")


@dataclasses.dataclass(frozen=True)
class TrunkConfig:
    """Sizes of the transformer.

    Attributes:
      layers: L, number of blocks.
      width: D, of the residual stream.
      heads: N, query heads; the head's width is D / N.
      kv_heads: K, key and value heads, a divisor of N; 0 means N.
      feed_forward: F, hidden width of the feed-forward; 0 means 4 D.
      chunk: tokens of one chunk of the feed-forward and of the loss, on one device.
      attention: which implementation trains: `ring`, over any number of devices, or,
        to compare, `reference`, `memory_efficient` or `blockwise` on one.
      kernel: what computes a hop of `ring` or `blockwise`: `blockwise`, `triton`,
        `hopper`, or `auto`, the fastest of the kind of device that can do it.
      block: tile length of attention; 0 chooses by device kind.
      dtype: of the computation, `float32`, `bfloat16` or (in x64) `float64`;
        parameters are float32.
      remat: what of each block the backward pass computes again. `block`: all but
        attention, of which the output and its sums are kept, so that the ring is not
        run again; a block then keeps two arrays `[tokens D]`. `all`: attention too.
        `none`: nothing but chunks, which takes some ten times the memory.
      dropout: probability that a weight of attention is dropped in training.
    """

    layers: int = 3
    width: int = 128
    heads: int = 4
    kv_heads: int = 0
    feed_forward: int = 0
    chunk: int = 4096
    attention: Literal["ring", "reference", "memory_efficient", "blockwise"] = "ring"
    kernel: Literal["auto", "blockwise", "triton", "hopper"] = "auto"
    block: int = 0
    dtype: str = "float32"
    remat: Literal["none", "block", "all"] = "block"
    dropout: float = 0.0

    def __post_init__(self):
        """Checks the sizes, and what they have to do with each other."""
        for name, least in (("layers", 1), ("heads", 1), ("chunk", 1), ("block", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"trunk: {name} must be at least {least}, found "
                    f"{getattr(self, name)}"
                )
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"trunk: width must be heads times an even head width, found width="
                f"{self.width}, heads={self.heads}"
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(
                f"trunk: kv_heads must divide heads={self.heads}, found {self.kv_heads}"
            )
        if self.dtype not in ("float32", "bfloat16", "float64"):
            raise ValueError(
                "trunk: dtype must be float32, bfloat16 or float64, found "
                f"{self.dtype!r}"
            )
        known = ("ring", "reference", "memory_efficient", "blockwise")
        if self.attention not in known:
            raise ValueError(
                f"trunk: attention must be one of {', '.join(known)}, found "
                f"{self.attention!r}"
            )
        kernels = ("auto", *KERNELS)
        if self.kernel not in kernels:
            raise ValueError(
                f"trunk: kernel must be one of {', '.join(kernels)}, found "
                f"{self.kernel!r}"
            )
        if self.kernel != "auto" and self.attention not in ("ring", "blockwise"):
            raise ValueError(
                "trunk: kernel must be auto where attention is neither ring nor "
                f"blockwise, found {self.kernel!r} and {self.attention!r}"
            )
        if self.remat not in ("none", "block", "all"):
            raise ValueError(
                f"trunk: remat must be none, block or all, found {self.remat!r}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"trunk: dropout must be at least 0 and below 1, found {self.dropout!r}"
            )

    def check_tensor(self, devices: int) -> None:
        """Raises ValueError where `mesh.tensor` cannot share the trunk out."""
        sizes = {
            "heads": self.heads,
            "kv_heads": self.kv_heads or self.heads,
            "feed_forward": self.feed_forward or 4 * self.width,
        }
        odd = {name: size for name, size in sizes.items() if size % devices}
        if odd:
            raise ValueError(
                f"mesh.tensor={devices} must divide trunk.heads, trunk.kv_heads and "
                f"trunk.feed_forward, found {odd}"
            )


def _feed_forward(parameters, x):
    """W2 · gelu(W1 · norm(x)), one token at a time."""
    norm, up, down = nnx.merge(*parameters)
    return down(jax.nn.gelu(up(norm(x))))


def _feed_forward_of_all(parameters, x):
    """The sum over `tensor`, whose devices each have a part of the hidden width."""
    return jax.lax.psum(_feed_forward(parameters, x), TENSOR)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: TrunkConfig, rules: ShardingRules, *, rngs: nnx.Rngs):
        """Parameters are float32; computation is in `config.dtype`.

        Raises:
          ValueError: the mesh cannot share out heads or the feed-forward.
        """
        # What cannot be shared out would be summed as often as there are devices.
        config.check_tensor(rules.mesh.shape[TENSOR])
        dtype = jnp.dtype(config.dtype)
        head_width = config.width // config.heads
        self.config, self.rules = config, rules
        self.heads = (config.heads, config.kv_heads or config.heads)

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, dtype=dtype, rngs=rngs)

        N, K = self.heads
        self.attention_norm = nnx.RMSNorm(config.width, dtype=dtype, rngs=rngs)
        self.queries = linear(config.width, N * head_width)
        self.keys = linear(config.width, K * head_width)
        self.values = linear(config.width, K * head_width)
        self.output = linear(N * head_width, config.width)
        hidden = config.feed_forward or 4 * config.width
        self.feed_forward = nnx.List(
            [
                nnx.RMSNorm(config.width, dtype=dtype, rngs=rngs),
                linear(config.width, hidden),
                linear(hidden, config.width),
            ]
        )

    def project(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> tuple[
        Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]
    ]:
        """Queries, keys and values of attention, the first two turned by position."""
        x = self.attention_norm(x)
        N, K = self.heads

        def split(y, heads: int):
            return y.reshape(*y.shape[:2], heads, -1)

        q = rotate(split(self.queries(x), N), positions)
        k = rotate(split(self.keys(x), K), positions)
        return q, k, split(self.values(x), K)

    def attend(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
        mask: Mask,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T N H"]:
        """Attention of whole sequences; with a key, weights are dropped."""
        block = self.config.block or None
        return ring_attention(
            q, k, v, mask, mesh=self.rules.mesh, axis_name=SEQUENCE,
            batch_axes=ROWS, head_axis=TENSOR, implementation=self.config.attention,
            kernel=None if self.config.kernel == "auto" else self.config.kernel,
            block_q=block, block_k=block, dropout_key=key,
            dropout_rate=0.0 if key is None else self.config.dropout,
        )  # fmt: skip

    def _add(self, x, attended):
        return x + self.output(attended.reshape(*x.shape[:2], -1))

    def _finish(self, x, attended):
        """What follows attention, for whole sequences."""
        x = self.rules.constrain_tokens(self._add(x, attended))
        return x + self.feed_forward_of(x)

    def feed_forward_of(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What the feed-forward adds to whole sequences, chunk by chunk."""
        graph, state = nnx.split(self.feed_forward)
        specs = self.rules.specs(state, within="feed_forward", gathered=True)
        return over_tokens(
            _feed_forward_of_all,
            (graph, state),
            x,
            rules=self.rules,
            chunk=self.config.chunk,
            specs=(self.rules.replicated, specs),
        )

    def __call__(
        self, x: Float[Array, "B T D"], mask: Mask, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B T D"]:
        """Whole sequences, in layout order, sharded over the ring.

        With a key, weights of attention are dropped; `mask` must then have tokens.
        """
        q, k, v = self.project(x, mask.q_positions)
        return self._finish(x, self.attend(q, k, v, mask, key))

    def prefill(
        self,
        x: Float[Array, "B T D"],
        mask: Mask,
        cache: Cache,
        layer: int,
        taken: Int[Array, "B T"],
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """The same, and the keys and values are in the cache afterwards."""
        q, k, v = self.project(x, mask.q_positions)
        cache = write(cache, layer, k, v, taken, rules=self.rules)
        return self._finish(x, self.attend(q, k, v, mask)), cache

    def decode(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        cache: Cache,
        layer: int,
        taken: Int[Array, "B RT"],
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """A few new tokens: writes their keys and values, then attends to all."""
        q, k, v = self.project(x, positions)
        attended, cache = write_and_attend(
            cache, layer, q, k, v, positions, segments, taken, rules=self.rules
        )
        x = self._add(x, attended)
        return x + _feed_forward(nnx.split(self.feed_forward), x), cache


class Trunk(nnx.Module):
    """L blocks and a final norm; embeddings in, features out, both `[B T D]`."""

    def __init__(self, config: TrunkConfig, rules: ShardingRules, *, rngs: nnx.Rngs):
        """Builds the blocks with parameters from `rngs`."""
        self.config, self.rules = config, rules
        self.blocks = nnx.List(
            [Block(config, rules, rngs=rngs) for _ in range(config.layers)]
        )
        self.norm = nnx.RMSNorm(config.width, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], mask: Mask, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B T D"]:
        """Features of whole sequences in layout order.

        With a key, weights of attention are dropped; `mask` must then have tokens.
        Unless `remat` is `none`, blocks are a loop over their stacked parameters: a
        compiler that sees them one after the other may undo the rematerialisation (on
        CPUs it does). The stack is a copy of the parameters.
        """
        layers = len(self.blocks)
        keys = None if key is None else jax.random.split(key, layers)
        if self.config.remat == "none":
            for layer, block in enumerate(self.blocks):
                graph, state = nnx.split(block)
                block = nnx.merge(graph, self.rules.gather(state))
                x = block(x, mask, None if keys is None else keys[layer])
            return self.norm(x)
        graph = nnx.graphdef(self.blocks[0])
        states = [nnx.state(block) for block in self.blocks]
        stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *states)

        def run(x, layer):
            state, key = layer
            return nnx.merge(graph, self.rules.gather(state))(x, mask, key), None

        kept = ATTENTION_RESIDUALS if self.config.remat == "block" else ()
        policy = jax.checkpoint_policies.save_only_these_names(*kept)
        # A loop needs no guard against merging what is computed again.
        run = jax.checkpoint(run, policy=policy, prevent_cse=False)
        return self.norm(jax.lax.scan(run, x, (stacked, keys))[0])

    def prefill(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        cache: Cache,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Features of whole sequences in layout order, and a cache with them alone.

        Each device writes the keys and values of the tokens that it holds, none is
        sent; see `reserve_all`.
        """
        taken, cache = reserve_all(cache, positions, segments, rules=self.rules)
        window = cache.limit.window
        # Sequences that the window would not cut need no arithmetic for it.
        window = None if window is None or window >= x.shape[1] else window
        mask = Mask.self_attention(positions, segments, window=window)
        for layer, block in enumerate(self.blocks):
            x, cache = block.prefill(x, mask, cache, layer, taken)
        return self.norm(x), cache

    def decode(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        cache: Cache,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Features of a few new tokens, and the cache with them in it."""
        taken, cache = reserve(cache, positions, segments, rules=self.rules)
        for layer, block in enumerate(self.blocks):
            x, cache = block.decode(x, positions, segments, cache, layer, taken)
        return self.norm(x), cache
