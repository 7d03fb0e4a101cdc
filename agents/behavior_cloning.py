"""Behaviour cloning of the best share of the episodes, without memory.

The trunk sees one observation at a time. With `chains.best` at 1 this is plain
behaviour cloning, at 0.1 the 10 % BC of the Decision Transformer paper (arXiv
2106.01345, section 5.2).
"""

import dataclasses

from ring_rl.agents.transformer_policy import TransformerPolicy
from ring_rl.data.chains import ChainConfig
from ring_rl.data.tokens import TokenConfig


@dataclasses.dataclass(frozen=True)
class BehaviorCloning(TransformerPolicy):
    """The observation alone."""

    chains: ChainConfig = ChainConfig(trajectories=1, loss_on="all", best=0.1)
    tokens: TokenConfig = TokenConfig(fields=("observation",), memory="step")
    trials_in_context: int = 1
