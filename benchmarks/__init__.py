"""What the figures of the README and BENCHMARKS.md come from."""
