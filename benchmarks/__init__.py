"""Benchmarks against what people use today. Run ``python -m benchmarks --help`` in the root of the repository."""
