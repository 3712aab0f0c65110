"""Convolutions and products that are written by hand where XLA is slow on CPU."""
