"""Bytes of the arrays that a training step is made of, on one device."""

import dataclasses

from ring_rl.plan.context import Context
from ring_rl.plan.models import Model

# Adam's two moments beside the parameters, all in f32.
_MOMENTS = 2
F32 = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A model, and the tokens of it that one device holds.

    Attributes:
      model: the model.
      rows: of the device.
      length: tokens of each.
      ring: R, devices that share out a row.
      fsdp: devices that share out parameters and what is as large.
      platform: what the tiles are chosen for, `cpu` or another. XLA on a CPU computes
        bf16 in f32, and holds it so.
    """

    model: Model
    rows: int
    length: int
    ring: int = 1
    fsdp: int = 1
    platform: str = "gpu"

    @classmethod
    def of(cls, model: Model, context: Context, platform: str = "gpu") -> "Sizes":
        """Of a device of the context."""
        return cls(
            model,
            context.rows_per_device,
            context.tokens_per_device,
            context.ring,
            context.fsdp,
            platform,
        )

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self.rows * self.length

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the computation as it is held."""
        return F32 if self.platform == "cpu" else self.model.itemsize

    @property
    def chunk(self) -> int:
        """Tokens of a chunk of the feed-forward and of the loss."""
        return self.rows * min(self.length, max(1, self.model.trunk.chunk // self.rows))

    @property
    def chunked(self) -> bool:
        """Whether a device's tokens are more than one chunk."""
        return self.chunk < self.tokens

    @property
    def padded(self) -> int:
        """Tokens of whole chunks."""
        return -(-self.tokens // self.chunk) * self.chunk

    @property
    def wide(self) -> int:
        """Bytes of an array `[tokens D]`, which queries and outputs are too."""
        return self.tokens * self.model.trunk.width * self.itemsize

    @property
    def wide_sum(self) -> int:
        """The same of sums."""
        return self.tokens * self.model.trunk.width * F32

    @property
    def narrow(self) -> int:
        """Bytes of keys, or of values: `[tokens K H]`."""
        return self.wide * self.model.kv_heads // self.model.trunk.heads

    @property
    def narrow_sum(self) -> int:
        """Bytes of the f32 gradients of keys, or of values."""
        return self.wide_sum * self.model.kv_heads // self.model.trunk.heads

    @property
    def block(self) -> int:
        """A block that travels: keys, values, positions and segments."""
        return 2 * self.narrow + 8 * self.tokens

    @property
    def attention_sums(self) -> int:
        """The largest score and the sum of weights of each query and head."""
        return 2 * self.tokens * self.model.trunk.heads * F32

    @property
    def angles(self) -> int:
        """Cosines and sines of the positions, made once for all layers."""
        return self.tokens * self.model.head_width * F32

    @property
    def parameters(self) -> int:
        """All parameters in f32."""
        return F32 * self.model.parameters // self.fsdp

    @property
    def moments(self) -> int:
        """What Adam keeps."""
        return _MOMENTS * self.parameters

    @property
    def block_parameters(self) -> int:
        """The parameters of all blocks in f32."""
        return F32 * self.model.block_parameters // self.fsdp

    @property
    def weights_at_hand(self) -> int:
        """The parameters of the block that is computed, whole on every device.

        In f32 and, where that differs, in the computation's type too.
        """
        model = self.model
        narrowed = 0 if self.itemsize == F32 else self.itemsize
        return model.block_parameters // model.trunk.layers * (F32 + narrowed)

    @property
    def batch(self) -> int:
        """Fields of the tokens, labels and weights, in 4 bytes a number."""
        return self.tokens * (self._shown + 2 * F32 + F32 * (self.model.action + 1))

    @property
    def batch_chunks(self) -> int:
        """The embedding's inputs once more, cut in chunks, until its backward pass."""
        return self.padded * self._shown if self.chunked else 0

    @property
    def _shown(self) -> int:
        """Bytes of what the embedding reads of a token.

        Observation, action, target return, reward, completion and time step, and which
        of the first five it shows; positions and segments are for attention.
        """
        return F32 * (self.model.observation + self.model.action + 4) + 5
