"""A context and the devices that share it out."""

import dataclasses

from ring_rl.attention.layout import LAYOUTS


@dataclasses.dataclass(frozen=True)
class Context:
    """What is trained on at once, and on how many devices.

    Attributes:
      trajectories: episodes of the chain that a row is.
      steps: environment steps of each.
      tokens_per_step: tokens of each step; the paper's are 4, fused ones 1.
      rows: B, of the whole batch.
      devices: of all.
      data: groups of devices with rows of their own; the devices of a group are a ring.
      layout: of the ring; `auto` is zigzag, which one causal chain chooses.
      fsdp: devices that share out parameters, gradients and the optimiser's state: a
        prediction only. The axis `mesh.fsdp` of training shares out rows as well.
    """

    trajectories: int = 4
    steps: int = 1000
    tokens_per_step: int = 4
    rows: int = 1
    devices: int = 1
    data: int = 1
    layout: str = "auto"
    fsdp: int = 1

    def __post_init__(self):
        """Checks the ranges, and what they have to do with each other."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "layout" and value < 1:
                raise ValueError(
                    f"plan: {field.name} must be at least 1, found {value}"
                )
        if self.layout not in ("auto", *LAYOUTS):
            raise ValueError(
                f"plan: layout must be one of auto, {', '.join(LAYOUTS)}, found "
                f"{self.layout!r}"
            )
        for name, whole in (("data", "devices"), ("data", "rows"), ("fsdp", "devices")):
            part = getattr(self, name)
            if getattr(self, whole) % part:
                raise ValueError(
                    f"plan: {name} must divide {whole}={getattr(self, whole)}, found "
                    f"{part}"
                )

    @property
    def ring(self) -> int:
        """R, devices that share out a row."""
        return self.devices // self.data

    @property
    def chain_tokens(self) -> int:
        """Tokens of a row's chain."""
        return self.trajectories * self.steps * self.tokens_per_step

    @property
    def tokens(self) -> int:
        """Tokens of a row, padded so that every layout can cut it."""
        together = 2 * self.ring
        return -(-self.chain_tokens // together) * together

    @property
    def tokens_per_device(self) -> int:
        """Tokens of a row on one device."""
        return self.tokens // self.ring

    @property
    def rows_per_device(self) -> int:
        """Rows of which a device holds a part."""
        return self.rows // self.data

    @property
    def chosen_layout(self) -> str:
        """The layout, chosen where that is left open."""
        if self.ring == 1:
            return "contiguous"
        return "zigzag" if self.layout == "auto" else self.layout
