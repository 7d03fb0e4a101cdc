"""The model of every agent here: tokens in, a distribution over actions out."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ring_rl.attention import Mask
from ring_rl.mesh import ShardingRules
from ring_rl.nn.cache import Cache, make_cache
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

    def features(self, tokens: Tokens) -> Float[Array, "B T D"]:
        """What the trunk makes of whole sequences."""
        mask = Mask.self_attention(tokens.positions, tokens.segments)
        x = self.rules.constrain_tokens(self.embedding(tokens))
        return self.trunk(x, mask)

    def __call__(self, tokens: Tokens) -> Float[Array, "B T outputs"]:
        """Logits of whole sequences at every token; `losses` never holds them all."""
        return self.logits(self.features(tokens))

    def losses(self, batch: Batch) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Cross-entropy and hits at every token, see `ActionHead.cross_entropy`."""

        def one_chunk(parameters, features, label):
            logits = nnx.merge(*parameters)(features)
            return self.head.cross_entropy(logits, label)

        return over_tokens(
            one_chunk,
            nnx.split(self.logits),
            self.features(batch.tokens),
            batch.label,
            rules=self.rules,
            chunk=self.config.chunk,
        )

    def make_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache for `capacity` tokens in each of `rows`."""
        config = self.config
        return make_cache(
            layers=config.layers,
            rows=rows,
            capacity=capacity,
            kv_heads=config.kv_heads or config.heads,
            head_width=config.width // config.heads,
            dtype=jnp.dtype(config.dtype),
            rules=self.rules,
        )

    def decode(
        self, tokens: Tokens, cache: Cache
    ) -> tuple[Float[Array, "B T outputs"], Cache]:
        """Logits of a few new tokens, which are in the cache afterwards."""
        x = self.embedding(tokens)
        x, cache = self.trunk.decode(x, tokens.positions, tokens.segments, cache)
        return self.logits(x), cache
