"""Datasets and figures handed to and taken from the packages rlds and d4rl (extras)."""
