"""The network and its pretrained weights."""
