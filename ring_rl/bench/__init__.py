"""Benchmarks: `ring-rl bench`, one record of JSON values a measurement."""
