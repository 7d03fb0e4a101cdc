"""What a benchmark of attention measures, as one value."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ring_rl.attention import Mask, choose_layout
from ring_rl.attention.kernels import KERNELS
from ring_rl.attention.layout import LAYOUTS
from ring_rl.bench.masks import MaskKind
from ring_rl.bench.oracle import Inputs

IMPLEMENTATIONS = ("reference", "memory_efficient", "blockwise", "ring")
# These hold the whole sequence on one device.
ONE_DEVICE = ("memory_efficient", "blockwise", "tiles", "cudnn", "cudnn-causal")
PEERS = (
    "ringattention",
    "jax-nn",
    "reference",
    "memory_efficient",
    "blockwise",
    "tiles",
    "cudnn",
    "cudnn-causal",
    "matmul",
)


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """One implementation on one problem, and the peers that it is raced against.

    Attributes:
      implementation: one of `IMPLEMENTATIONS`.
      devices: R, which share out the sequence.
      tokens: T = S, of all devices together.
      batch: B.
      heads: N, query heads.
      kv_heads: K, a divisor of N; 0 means N.
      head_dim: H.
      dtype: of the inputs, `float32` or `bfloat16`.
      mask: who sees whom.
      layout: of the ring; `auto` chooses by counting tiles.
      backward: whether all three gradients are computed as well.
      dropout: rate.
      block_q: queries of a tile; 0 chooses by device kind.
      block_k: keys of a tile; likewise.
      kernel: of the hops of `ring` and `blockwise`; `auto` chooses by device kind.
      precision: of matmuls, as `jax.default_matmul_precision` takes it.
      runs: timed calls of each, after one that is not timed.
      against: some of `PEERS`.
    """

    implementation: str = "ring"
    devices: int = 1
    tokens: int = 8192
    batch: int = 1
    heads: int = 4
    kv_heads: int = 0
    head_dim: int = 64
    dtype: str = "float32"
    mask: MaskKind = MaskKind("causal")
    layout: str = "auto"
    backward: bool = False
    dropout: float = 0.0
    block_q: int = 0
    block_k: int = 0
    kernel: str = "auto"
    precision: str = "default"
    runs: int = 5
    against: tuple[str, ...] = ()

    def __post_init__(self):
        """Checks the values, and what they have to do with each other."""
        check_counts(
            self, ("devices", "tokens", "batch", "heads", "head_dim", "runs"), least=1
        )
        check_counts(self, ("kv_heads", "block_q", "block_k"), least=0)
        check_choice(self, "implementation", IMPLEMENTATIONS)
        check_choice(self, "layout", ("auto", *LAYOUTS))
        check_choice(self, "dtype", ("float32", "bfloat16"))
        check_choice(self, "kernel", ("auto", *KERNELS))
        check_choice(self, "precision", ("default", "highest"))
        if self.heads % self.key_heads:
            raise ValueError(
                f"bench: kv_heads must divide heads={self.heads}, found {self.kv_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"bench: dropout must be in [0, 1), found {self.dropout}")
        for peer in self.against:
            if peer not in PEERS:
                raise ValueError(
                    f"bench: against must be some of {', '.join(PEERS)}, found {peer!r}"
                )
        if self.devices > 1 and self.implementation in ONE_DEVICE:
            raise ValueError(
                f"bench: implementation {self.implementation!r} works on one device, "
                f"found devices={self.devices}; 'ring' shares the sequence out"
            )
        if self.implementation != "ring" and self.layout not in ("auto", "contiguous"):
            raise ValueError(
                f"bench: layout {self.layout!r} is of the ring, found implementation "
                f"{self.implementation!r}"
            )
        check_length(self.tokens, self.devices)

    @property
    def key_heads(self) -> int:
        """K."""
        return self.kv_heads or self.heads

    @property
    def contenders(self) -> tuple[str, ...]:
        """The implementation and its peers; the matmul's rate is measured anyway."""
        names = dict.fromkeys((self.implementation, *self.against))
        return tuple(name for name in names if name != "matmul")

    @property
    def flops(self) -> int:
        """Floating-point operations of the matmuls over pairs that are not masked.

        Two matmuls forward; backward their gradients and the scores once more.
        """
        pairs = self.batch * self.mask.pairs(self.tokens)
        return (14 if self.backward else 4) * pairs * self.heads * self.head_dim

    @property
    def scores_bytes(self) -> int:
        """What the scores of all pairs at once take, which `reference` holds."""
        itemsize = jnp.promote_types(self.dtype, jnp.float32).itemsize
        return self.batch * self.heads * self.tokens**2 * itemsize

    def host_mask(self) -> Mask:
        """The mask in natural order; with token indices where dropout needs them."""
        return self.mask.on_host(self.batch, self.tokens, numbered=self.dropout > 0)

    def chosen_layout(self) -> str:
        """The layout, chosen where that is left open."""
        if self.implementation != "ring" or self.devices == 1:
            return "contiguous"
        if self.layout != "auto":
            return self.layout
        return choose_layout(self.mask.on_host(1, self.tokens), self.devices)

    def inputs(self) -> Inputs:
        """Unit-normal numbers, the same whatever is measured; `[B T heads H]`."""
        random = np.random.default_rng(0)

        def normal(heads: int) -> np.ndarray:
            shape = (self.batch, self.tokens, heads, self.head_dim)
            drawn = random.standard_normal(shape, np.float32)
            return drawn.astype(jnp.dtype(self.dtype))

        queries, keys = self.heads, self.key_heads
        return Inputs(normal(queries), normal(keys), normal(keys), normal(queries))

    def values(self) -> dict[str, Any]:
        """What a record says of the problem."""
        names = "devices tokens batch heads head_dim dtype backward dropout precision"
        found = {name: getattr(self, name) for name in names.split()}
        return found | {
            "kv_heads": self.key_heads,
            "mask": str(self.mask),
            "kernel": self.kernel,
        }


def check_counts(config: Any, names: tuple[str, ...], *, least: int) -> None:
    """Raises ValueError for a field of the configuration that is too small."""
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(
                f"bench: {name} must be at least {least}, found {getattr(config, name)}"
            )


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for a field of the configuration that is none of these."""
    if getattr(config, name) not in choices:
        raise ValueError(
            f"bench: {name} must be one of {', '.join(choices)}, found "
            f"{getattr(config, name)!r}"
        )


def check_length(tokens: int, devices: int) -> None:
    """Raises ValueError for a length that some layout could not share out."""
    if devices > 1 and tokens % (2 * devices):
        raise ValueError(
            f"bench: tokens must be a multiple of {2 * devices} (twice the devices), "
            f"found {tokens}"
        )
