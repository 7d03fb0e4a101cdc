"""The transformer that reads trajectories: embeddings, trunk, action heads."""
