"""What a model, a context and some devices need: `ring-rl plan`, nothing run."""
