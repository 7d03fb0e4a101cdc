"""ring_rl: offline reinforcement learning on long contexts of many trajectories."""

__version__ = "0.1.0"
