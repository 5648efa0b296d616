"""Benchmarks: compare side by side in one run, append to docs/benchmarks.md. Never a timed assert."""
