"""Rules that turn the figures of a run into findings: what stands out, and what to try next."""
