"""Episodes of random numbers, where only their sizes matter."""

import numpy as np

from ring_rl.data.episodes import EpisodeStore
from ring_rl.types import Continuous, Episode, Spaces


def make_store(
    trajectories: int, steps: int, *, observation: int, action: int
) -> EpisodeStore:
    """Episodes of one task, all of `steps`, with actions in [-1, 1]."""
    random = np.random.default_rng(0)
    bounds = (1.0,) * action
    spaces = Spaces(observation, Continuous(tuple(-x for x in bounds), bounds))
    episodes = (
        Episode(
            observations=random.standard_normal((steps, observation), np.float32),
            actions=random.uniform(-1, 1, (steps, action)).astype(np.float32),
            rewards=random.random(steps, np.float32),
            discounts=np.ones(steps, np.float32),
            final_observation=np.zeros(observation, np.float32),
            has_final_observation=False,
            terminated=False,
            truncated=True,
            task="synthetic",
            episode_id=index,
            extras={},
        )
        for index in range(trajectories)
    )
    return EpisodeStore.from_episodes(episodes, spaces)
