"""Steps of torch's optimisers on a small head, with the gradients that the tests use again.

torch is imported where it is used, because the tests import this file for its inputs and cases.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

from typing import Any

import numpy as np

STEPS, RATE, DECAY = 12, 0.02, 0.3
# Fields of a phase, by the name under which the results are stored.
CASES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw"},
    "adam": {"optimizer": "adam"},
    "sgd": {"optimizer": "sgd"},
    "sgd without momentum": {"optimizer": "sgd", "momentum": 0.0},
}
KERNEL, BIAS = "head/kernel", "head/bias"


def parameters() -> dict[str, np.ndarray]:
    """Returns the leaves before the first step."""
    return {KERNEL: np.full((3, 4), 2.0, np.float32), BIAS: np.full(4, 3.0, np.float32)}


def gradients() -> list[dict[str, np.ndarray]]:
    """Returns the gradients of each step."""
    return [
        {
            KERNEL: np.random.default_rng(step).normal(size=(3, 4)).astype(np.float32),
            BIAS: np.random.default_rng(99 - step).normal(size=4).astype(np.float32),
        }
        for step in range(STEPS)
    ]


def values() -> dict[str, np.ndarray]:
    """Returns the leaves after the last step, by case and path; only kernels decay."""
    import torch

    computed = {}
    for case in CASES:
        tensors = {path: torch.tensor(leaf) for path, leaf in parameters().items()}
        groups = [{"params": [tensors[KERNEL]]}, {"params": [tensors[BIAS]], "weight_decay": 0.0}]
        optimizer = _make(case, groups)
        for gradient in gradients():
            for path, tensor in tensors.items():
                tensor.grad = torch.tensor(gradient[path])
            optimizer.step()
        computed |= {f"{case}: {path}": tensor.numpy() for path, tensor in tensors.items()}
    return computed


def _make(case: str, groups: Any) -> Any:
    from torch import optim

    options: Any = {"lr": RATE, "weight_decay": DECAY}
    if case == "adamw":
        return optim.AdamW(groups, eps=1e-8, **options)
    if case == "adam":
        return optim.Adam(groups, eps=1e-8, **options)
    if case == "sgd":
        return optim.SGD(groups, momentum=0.9, nesterov=True, **options)
    return optim.SGD(groups, **options)
