"""Models to plan for: the paper's sizes, our presets', or one's own."""

import dataclasses
from typing import Any

from ring_rl.agents import AgenticTransformer
from ring_rl.data.tokens import FIELDS, TokenConfig
from ring_rl.nn.trunk import TrunkConfig

# Layers, width, heads and hidden width. LLaMA's feed-forward is gated, of three
# matrices; ours of two, so it is half as wide again for as many parameters.
# Source: Touvron et al. 2023 (arXiv 2302.13971), table 2; 1B and 3B: OpenLLaMA's; 350M:
# Brown et al. 2020 (arXiv 2005.14165), table 2.1. Without a vocabulary's embeddings,
# which a policy does not have, 350M are 302M.
_SIZES = {
    "350m": (24, 1024, 16, 4096),
    "1b": (22, 2048, 16, 8256),
    "3b": (26, 3200, 32, 12960),
    "7b": (32, 4096, 32, 16512),
    "13b": (40, 5120, 40, 20736),
    "30b": (60, 6656, 52, 26880),
    "65b": (80, 8192, 64, 33024),
}
MODELS = tuple(_SIZES)


@dataclasses.dataclass(frozen=True)
class Model:
    """A transformer and what it reads and predicts.

    Attributes:
      name: of the sizes or the preset, and whether they were changed.
      trunk: the transformer.
      observation: O.
      action: A, components of a continuous action.
      bins: of each component.
    """

    name: str
    trunk: TrunkConfig
    observation: int = 24
    action: int = 6
    bins: int = 41

    def __post_init__(self):
        """Checks the widths; the trunk checks its own."""
        widths = {"width": self.trunk.width, "feed_forward": self.feed_forward}
        widths |= {
            "kv_heads": self.kv_heads,
            "observation": self.observation,
            "action": self.action,
        }
        for name, width in widths.items():
            if width < 1:
                raise ValueError(f"plan: {name} must be at least 1, found {width}")
        # The trunk may be float64 too, at rates that `Hardware` does not know.
        if self.trunk.dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"plan: dtype must be float32 or bfloat16, found {self.trunk.dtype!r}"
            )

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.trunk.kv_heads or self.trunk.heads

    @property
    def head_width(self) -> int:
        """H."""
        return self.trunk.width // self.trunk.heads

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the computation, keys and values that travel too."""
        return 2 if self.trunk.dtype == "bfloat16" else 4

    @property
    def feed_forward(self) -> int:
        """F."""
        return self.trunk.feed_forward or 4 * self.trunk.width

    @property
    def outputs(self) -> int:
        """Logits a token."""
        return self.action * self.bins

    @property
    def projections(self) -> int:
        """Parameters of a block's maps to queries, keys and values, and back."""
        width = self.trunk.width
        return 2 * width * width + 2 * width * self.kv_heads * self.head_width

    @property
    def block_parameters(self) -> int:
        """Parameters of all blocks."""
        width = self.trunk.width
        each = self.projections + 2 * width * self.feed_forward + 2 * width
        return self.trunk.layers * each

    @property
    def embedding_inputs(self) -> int:
        """Numbers that the embedding's maps read: its fields and 32 of the time."""
        return self.observation + self.action + len(FIELDS) - 2 + 32

    @property
    def parameters(self) -> int:
        """All of them: blocks, embedding, last norm and logits."""
        width = self.trunk.width
        embedding = width * (self.embedding_inputs + len(FIELDS) + 1)
        logits = self.outputs * (width + 1)
        return self.block_parameters + embedding + width + logits

    def agent(self) -> AgenticTransformer:
        """An agent with this model."""
        return AgenticTransformer(
            trunk=self.trunk, tokens=TokenConfig(layout="interleaved"), bins=self.bins
        )


def choose_model(
    name: str, *, observation: int = 24, action: int = 6, **sizes: Any
) -> Model:
    """A model by its name, with one's own sizes in place of its own.

    Args:
      name: one of `MODELS`, which compute in bf16, or a preset of `ring-rl train`.
      observation: O.
      action: A.
      sizes: fields of `TrunkConfig`; None leaves the model's own.

    Raises:
      ValueError: there is no such model, or it cannot be.
    """
    bins = Model.bins
    if name in _SIZES:
        layers, width, heads, hidden = _SIZES[name]
        trunk = TrunkConfig(
            layers=layers, width=width, heads=heads, feed_forward=hidden,
            dtype="bfloat16",
        )  # fmt: skip
    else:
        # Presets know environments: not loaded where they are not asked for.
        from ring_rl.configs import presets

        known = presets()
        if name not in known:
            raise ValueError(
                f"plan: model must be one of {', '.join(MODELS)}, or a preset such as "
                f"{', '.join(list(known)[:2])} (ring-rl list presets), found {name!r}"
            )
        trunk, bins = known[name].agent.trunk, known[name].agent.bins
    own = {field: value for field, value in sizes.items() if value is not None}
    if own.keys() & {"width"} and "feed_forward" not in own:
        own["feed_forward"] = 0
    if "heads" in own and "kv_heads" not in own:
        own["kv_heads"] = 0
    changed = dataclasses.replace(trunk, **own)
    told = name if changed == trunk else f"{name}, changed"
    return Model(told, changed, observation, action, bins)
