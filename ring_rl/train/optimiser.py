"""The optimiser as values: AdamW or SGD under warm-up, cosine decay and clipping."""

import dataclasses
from typing import Literal

import optax


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """What becomes of a gradient.

    Attributes:
      name: `adamw`, or `sgd`, which does not divide by the gradient's own size.
      learning_rate: after the warm-up.
      warmup: updates over which the learning rate rises from 0.
      final: share of the learning rate that is left at the last update (cosine).
      weight_decay: of AdamW.
      clip: largest norm of the gradient of all parameters together.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    warmup: int = 100
    final: float = 0.0
    weight_decay: float = 1e-4
    clip: float = 1.0

    def __post_init__(self):
        """Checks the ranges."""
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"optimiser: {name} must be above 0, found {getattr(self, name)}"
                )
        for name in ("warmup", "final", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"optimiser: {name} must be at least 0, found {getattr(self, name)}"
                )


def make_optimiser(config: OptimiserConfig, steps: int) -> optax.GradientTransformation:
    """The transformation of gradients for a run of `steps` updates."""
    warmup = min(config.warmup, max(steps - 1, 0))
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.final * config.learning_rate,
    )
    if config.name == "adamw":
        rule = optax.adamw(schedule, weight_decay=config.weight_decay)
    elif config.name == "sgd":
        rule = optax.sgd(schedule)
    else:
        raise ValueError(f"optimiser: name must be adamw or sgd, found {config.name!r}")
    return optax.chain(optax.clip_by_global_norm(config.clip), rule)
