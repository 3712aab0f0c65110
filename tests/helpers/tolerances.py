"""How far apart float32 results may be that no two CPUs, and no two programs, round alike."""

import numpy as np

EPS = float(np.finfo(np.float32).eps)  # twice what rounding changes a number by, relative to it


def sum_atol(terms: int, size: float) -> float:
    """How far apart two sums of the same numbers may be, added in whatever order.

    Each addition rounds a partial sum by half of EPS of it, and that is never above `size`.

    Args:
        terms: how many numbers.
        size: the sum of their magnitudes.
    """
    return terms * EPS * size
