"""The optimiser as values: AdamW or SGD under warm-up, decay and clipping."""

import dataclasses
from typing import Literal

import optax

_SCHEDULES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """What becomes of a gradient.

    Attributes:
      name: `adamw`, or `sgd`, which does not divide by the gradient's own size.
      learning_rate: after the warm-up.
      schedule: how it falls from there to the last update: along a `cosine`, `linear`
        or not at all (`constant`).
      warmup: updates over which the learning rate rises from 0.
      final: share of the learning rate that is left at the end (cosine and linear).
      weight_decay: of AdamW.
      clip: largest norm of the gradient of all parameters together.
      average: decay of a running average of the parameters (EMA) that is evaluated in
        their place, such as 0.999; 0 for none.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 100
    final: float = 0.0
    weight_decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.0

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
        if self.schedule not in _SCHEDULES:
            raise ValueError(
                f"optimiser: schedule must be one of {', '.join(_SCHEDULES)}, found "
                f"{self.schedule!r}"
            )
        if not 0 <= self.average < 1:
            raise ValueError(
                "optimiser: average must be at least 0 and below 1, found "
                f"{self.average}"
            )


def make_schedule(config: OptimiserConfig, steps: int) -> optax.Schedule:
    """The learning rate by updates done, for a run of `steps` updates."""
    warmup = min(config.warmup, max(steps - 1, 0))
    end = max(steps, warmup + 1)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if warmup else config.learning_rate,
            peak_value=config.learning_rate,
            warmup_steps=warmup,
            decay_steps=end,
            end_value=config.final * config.learning_rate,
        )
    final = config.final if config.schedule == "linear" else 1.0
    peak = config.learning_rate
    fall = optax.linear_schedule(peak, final * peak, end - warmup)
    if not warmup:
        return fall
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, fall], [warmup])


def make_optimiser(config: OptimiserConfig, steps: int) -> optax.GradientTransformation:
    """The transformation of gradients for a run of `steps` updates."""
    schedule = make_schedule(config, steps)
    if config.name == "adamw":
        rule = optax.adamw(schedule, weight_decay=config.weight_decay)
    elif config.name == "sgd":
        rule = optax.sgd(schedule)
    else:
        raise ValueError(f"optimiser: name must be adamw or sgd, found {config.name!r}")
    return optax.chain(optax.clip_by_global_norm(config.clip), rule)
