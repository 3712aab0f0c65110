"""The benchmark: measures how fast a config trains, finds the bottleneck, and suggests changes."""
