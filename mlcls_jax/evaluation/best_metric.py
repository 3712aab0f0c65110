"""Which of two evaluations is better, by the metric of `evaluation.best`."""

import math

LOWER_IS_BETTER = ("loss",)
DEFAULT = "mAP"


def goodness(metric: str, value: float) -> float:
    """Returns a number that is higher for a better evaluation.

    Args:
        metric: "mAP", "AUROC", "CF1" or "loss".
        value: its value; one that is NaN is worse than all others.

    >>> goodness("mAP", 0.7) > goodness("mAP", 0.6) > goodness("mAP", float("nan"))
    True
    >>> goodness("loss", 0.2) > goodness("loss", 0.3) > goodness("loss", float("nan"))
    True
    """
    if math.isnan(value):
        return -math.inf
    return -value if metric in LOWER_IS_BETTER else value


def best_in_words(metric: str) -> str:
    """Returns what the best evaluation has.

    >>> best_in_words("mAP"), best_in_words("loss")
    ('the highest val mAP', 'the lowest val loss')
    """
    return f"the {'lowest' if metric in LOWER_IS_BETTER else 'highest'} val {metric}"
