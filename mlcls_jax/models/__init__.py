"""EfficientNet with its two heads, and its pretrained weights."""
