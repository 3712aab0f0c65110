"""What the benchmark measures, and what it makes of it."""
