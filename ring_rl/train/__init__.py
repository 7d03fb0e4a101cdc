"""Training: optimiser, step, loop, checkpoints, metrics."""
