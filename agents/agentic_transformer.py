"""Agentic Transformer: a chain of hindsight experience is the context.

Several episodes of one task, ascending by return, all told the largest return among
them, are one sequence; the agent imitates the good ones in the light of those before.
At test time its own trials take their place, and it acts better as they accumulate.

Source: Liu & Abbeel 2023 (arXiv 2305.16554). Different from the paper: the loss leaves
out poor members by default (`chains.loss_on`), a step may be one token
(`tokens.layout`), and actions have a distribution instead of a mean.
"""

import dataclasses

from ring_rl.agents.transformer_policy import TransformerPolicy


@dataclasses.dataclass(frozen=True)
class AgenticTransformer(TransformerPolicy):
    """All fields of many trajectories; the context is kept through all trials."""
