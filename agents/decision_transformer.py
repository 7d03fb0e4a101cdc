"""Decision Transformer: one trajectory, conditioned on the return still to come.

Source: Chen et al. 2021 (arXiv 2106.01345). The trunk, the loader, the action head and
the protocol are those of the Agentic Transformer; the context is the present episode,
and rewards and completion are not shown, as in the paper.
"""

import dataclasses

from ring_rl.agents.transformer_policy import TransformerPolicy
from ring_rl.data.chains import ChainConfig
from ring_rl.data.tokens import TokenConfig


@dataclasses.dataclass(frozen=True)
class DecisionTransformer(TransformerPolicy):
    """Target return, observation and action of one trajectory."""

    chains: ChainConfig = ChainConfig(trajectories=1)
    tokens: TokenConfig = TokenConfig(fields=("target_return", "observation", "action"))
    trials_in_context: int = 1

    def __post_init__(self):
        """One trajectory is what makes it a Decision Transformer."""
        super().__post_init__()
        if self.chains.trajectories != 1 or self.trials_in_context != 1:
            raise ValueError(
                "decision transformer: chains.trajectories and trials_in_context must "
                f"be 1, found {self.chains.trajectories} and {self.trials_in_context}"
            )
