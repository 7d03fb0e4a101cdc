"""Offline datasets: read, checked, kept as flat arrays, and written as RLDS."""
