"""Losses and their gradients by torch, in float64, with the inputs that the tests use again.

torch is imported where it is used, because the tests import this file for its inputs and cases.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

from typing import Any

import numpy as np

UNKNOWN = -1.0
POS_WEIGHT = np.array([0.1, 1, 2, 30, 4], np.float32)
GAMMAS = [(0.0, 4.0), (1.0, 0.0), (0.5, 2.5)]  # of positives and negatives
# The options of the loss, by the name under which its results are stored.
WEIGHTED = {"weighted": {}}
FOCAL: dict[str, dict[str, Any]] = {
    f"focal {gamma} {alpha}": {"gamma": gamma, "alpha": alpha}
    for gamma in (0.5, 2.0)
    for alpha in (None, 0.25)
}
ASYMMETRIC: dict[str, dict[str, Any]] = {
    f"asymmetric {positive} {negative} {clip} {gradient}": {
        "gamma_pos": positive,
        "gamma_neg": negative,
        "clip": clip,
        "focus_gradient": gradient,
    }
    for positive, negative in GAMMAS
    for clip in (0.0, 0.05)
    for gradient in (False, True)
}
SEEDS = {"weighted": 7, "focal": 8, "asymmetric": 9}


def batch(seed: int = 0, shape: tuple[int, int] = (7, 5), scale: float = 4.0):
    """Returns logits, and labels that are 0, 1 or unknown, both float32."""
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal(shape)).astype(np.float32)
    labels = rng.choice(np.array([0, 1, UNKNOWN], np.float32), size=shape)
    return logits, labels


def soft_batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits, and labels that are 0, 1, in between, or unknown."""
    logits, labels = batch(seed)
    soft = np.random.default_rng(seed + 100).random(labels.shape).astype(np.float32)
    rows = np.arange(len(labels)) % 2 == 0
    return logits, np.where(rows[:, None] & (labels != UNKNOWN), soft, labels)


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits and the known labels of a stored result."""
    logits, labels = soft_batch(SEEDS[name.split()[0]])
    return logits, np.abs(labels)


def values() -> dict[str, np.ndarray]:
    """Returns [loss or gradient, row, class] of every case."""
    computed = {}
    for name, options in (WEIGHTED | FOCAL | ASYMMETRIC).items():
        loss = {"weighted": _weighted, "focal": _focal, "asymmetric": _asymmetric}[name.split()[0]]
        computed[name] = _loss_and_gradient(loss, options, *inputs(name))
    return computed


def _loss_and_gradient(loss: Any, options: dict[str, Any], logits: Any, labels: Any) -> np.ndarray:
    import torch

    x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    losses = loss(x, torch.tensor(labels, dtype=torch.float64), **options)
    losses.sum().backward()
    assert x.grad is not None
    return np.stack([losses.detach().numpy(), x.grad.numpy()])


def _weighted(x: Any, y: Any) -> Any:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    weight = torch.tensor(POS_WEIGHT)
    return binary_cross_entropy_with_logits(x, y, reduction="none", pos_weight=weight)


def _focal(x: Any, y: Any, gamma: float, alpha: float | None) -> Any:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    p = torch.sigmoid(x)
    q = y * p + (1 - y) * (1 - p)
    weight = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return weight * (1 - q) ** gamma * binary_cross_entropy_with_logits(x, y, reduction="none")


def _asymmetric(
    x: Any, y: Any, gamma_pos: float, gamma_neg: float, clip: float, focus_gradient: bool
) -> Any:
    import torch

    p = torch.sigmoid(x)
    false = torch.clamp(p - clip, min=0)
    weights = (1 - p) ** gamma_pos, false**gamma_neg
    positive, negative = weights if focus_gradient else (weight.detach() for weight in weights)
    return -y * positive * torch.log(p) - (1 - y) * negative * torch.log(1 - false)
