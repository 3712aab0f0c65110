"""What the figures of a run say, in words: each with its numbers and with what to try next."""
