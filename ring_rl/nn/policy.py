"""The model of every agent here: tokens in, a distribution over actions out."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ring_rl.attention import Mask
from ring_rl.mesh import ShardingRules
from ring_rl.nn.cache import Cache, Limit, make_cache
from ring_rl.nn.chunked import over_tokens
from ring_rl.nn.embedding import TokenEmbedding
from ring_rl.nn.heads import ActionHead
from ring_rl.nn.trunk import Trunk, TrunkConfig
from ring_rl.types import Batch, Scaling, Spaces, Tokens


class TrajectoryTransformer(nnx.Module):
    """Embedding, trunk and action head.

    Whole sequences are in layout order and sharded over the ring; new tokens when
    acting are few and the same on all devices.
    """

    def __init__(
        self,
        config: TrunkConfig,
        spaces: Spaces,
        scaling: Scaling,
        *,
        bins: int,
        rules: ShardingRules,
        rngs: nnx.Rngs,
    ):
        """Parameters are float32, drawn from `rngs`."""
        dtype = jnp.dtype(config.dtype)
        self.config, self.rules = config, rules
        self.head = ActionHead(spaces.action, bins)
        self.embedding = TokenEmbedding(
            spaces, scaling, config.width, dtype=dtype, rngs=rngs
        )
        self.trunk = Trunk(config, rules, rngs=rngs)
        self.logits = nnx.Linear(
            config.width, self.head.outputs, dtype=dtype, rngs=rngs
        )

    def features(
        self, tokens: Tokens, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B T D"]:
        """What the trunk makes of whole sequences; a key is for its dropout."""
        indices = None
        if key is not None and self.config.dropout:
            indices = _indices(tokens.positions, tokens.segments)
        mask = Mask.self_attention(tokens.positions, tokens.segments, tokens=indices)
        key = None if indices is None else key
        return self.trunk(self.embedded(tokens), mask, key)

    def embedded(self, tokens: Tokens) -> Float[Array, "B T D"]:
        """Embeddings of whole sequences, where the tokens are."""

        def one_chunk(parameters, *tokens):
            return nnx.merge(*parameters)(Tokens(*tokens))

        return over_tokens(
            one_chunk,
            nnx.split(self.embedding),
            *tokens,
            rules=self.rules,
            chunk=self.config.chunk,
        )

    def __call__(self, tokens: Tokens) -> Float[Array, "B T outputs"]:
        """Logits of whole sequences at every token; `losses` never holds them all."""
        return self.logits(self.features(tokens))

    def losses(
        self, batch: Batch, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Cross-entropy and hits at every token, see `ActionHead.cross_entropy`."""

        def one_chunk(parameters, features, label):
            logits = nnx.merge(*parameters)(features)
            return self.head.cross_entropy(logits, label)

        return over_tokens(
            one_chunk,
            nnx.split(self.logits),
            self.features(batch.tokens, key),
            batch.label,
            rules=self.rules,
            chunk=self.config.chunk,
        )

    def make_cache(self, rows: int, limit: Limit, places: int | None = None) -> Cache:
        """An empty cache for what `limit` says of each of `rows`.

        It has `places` a row to begin with, or at once all that it may need.
        """
        config = self.config
        return make_cache(
            layers=config.layers,
            rows=rows,
            places=limit.places if places is None else places,
            limit=limit,
            kv_heads=config.kv_heads or config.heads,
            head_width=config.width // config.heads,
            dtype=jnp.dtype(config.dtype),
            rules=self.rules,
        )

    def prefill(
        self, tokens: Tokens, cache: Cache
    ) -> tuple[Float[Array, "B T outputs"], Cache]:
        """Logits of whole sequences at every token, and a cache that holds them.

        Sequences are in layout order and sharded over the ring, and run through it
        once. What the cache held before is forgotten.

        Raises:
          ValueError: see `check_rows`.
        """
        self.check_rows(tokens.segments.shape[0])
        x, cache = self.trunk.prefill(
            self.embedded(tokens), tokens.positions, tokens.segments, cache
        )
        return self.logits(x), cache

    def check_rows(self, rows: int) -> None:
        """Raises ValueError if the mesh cannot share out so many whole sequences."""
        copies = self.rules.copies
        if rows % copies:
            raise ValueError(
                "prefill: rows must be a multiple of mesh.data x mesh.fsdp="
                f"{copies}, found {rows}"
            )

    def decode(
        self, tokens: Tokens, cache: Cache
    ) -> tuple[Float[Array, "B T outputs"], Cache]:
        """Logits of a few new tokens, which are in the cache afterwards."""
        x = self.embedding(tokens)
        x, cache = self.trunk.decode(x, tokens.positions, tokens.segments, cache)
        return self.logits(x), cache


def _indices(
    positions: Int[Array, "B T"], segments: Int[Array, "B T"]
) -> Int[Array, "B T"]:
    """An index of each token that no other of its row has, whatever the layout.

    Multiples of the golden ratio, here of 2^32 places, stay apart: none is shared as
    long as segments times positions are below 2^30.
    """
    return positions + segments * np.int32(0x9E3779B1 - 2**32)
