"""Conversion of parameter trees to and from flat dictionaries."""

from flax.traverse_util import flatten_dict, unflatten_dict


def flatten(params: dict) -> dict:
    """Returns the leaves of a nested tree by path, such as "backbone/stem/conv/kernel"."""
    return flatten_dict(params, sep="/")


def unflatten(params: dict) -> dict:
    """Returns the nested tree of a flat dictionary; the inverse of `flatten`."""
    return unflatten_dict(params, sep="/")
