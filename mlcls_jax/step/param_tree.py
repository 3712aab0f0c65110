"""Flattens and unflattens parameter trees."""

from flax.traverse_util import flatten_dict, unflatten_dict


def flatten(params: dict) -> dict:
    """{"backbone/stem/conv/kernel": leaf, ...} of a nested tree."""
    return flatten_dict(params, sep="/")


def unflatten(params: dict) -> dict:
    """The nested tree of `flatten`'s result."""
    return unflatten_dict(params, sep="/")
