"""Agents: one algorithm a file, all on the same trunk, loader and evaluator."""

from ring_rl.agents.agentic_transformer import AgenticTransformer as AgenticTransformer
from ring_rl.agents.behavior_cloning import BehaviorCloning as BehaviorCloning
from ring_rl.agents.decision_transformer import (
    DecisionTransformer as DecisionTransformer,
)
