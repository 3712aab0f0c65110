"""Pretrained weights: names, downloads, file formats, and conversion to our variables."""
