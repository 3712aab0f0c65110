"""timm's ML-Decoder: logits, initial kernels and the noise of its dropouts.

torch and timm are imported where they are used, because the tests import this file for its inputs.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

from typing import Any

import numpy as np

from mlcls_jax.models.ml_decoder import FEED_FORWARD, HEADS, fixed_queries
from mlcls_jax.models.variants import query_count

CHANNELS, WIDTH = 24, 64
MAP = np.random.default_rng(0).standard_normal((4, 5, 3, CHANNELS)).astype(np.float32)
DRAWS = 1024
ATTENTION_SCALES = (
    1,
    3,
)  # initial kernels are so small that dropout of attention has little effect
# Classes and groups; some groups are uneven, and in some cases timm has queries without a class.
SIZES = [(11, 0), (11, 4), (80, 25), (5, 9)]
NOISE_CLASSES, KERNEL_CLASSES = 6, 40
LAYER = "decoder.layers.0"
NORMS = ("query_norm", "attention_norm", "output_norm")


def parameters(
    classes: int, groups: int = 0, attention: float = 1.0, biases: float = 0.1
) -> dict[str, np.ndarray]:
    """Returns random leaves of our decoder by path.

    Args:
        classes: number of classes.
        groups: maximum number of groups of classes; 0 means one group per class.
        attention: factor of the kernels of the attention.
        biases: standard deviation of biases, and of scales around 1.
    """
    rng, head = np.random.default_rng(1), WIDTH // HEADS
    queries = query_count(classes, groups)
    shapes = {
        "embed/kernel": (CHANNELS, WIDTH),
        "attention/query/kernel": (WIDTH, HEADS, head),
        "attention/key/kernel": (WIDTH, HEADS, head),
        "attention/value/kernel": (WIDTH, HEADS, head),
        "attention/out/kernel": (HEADS, head, WIDTH),
        "expand/kernel": (WIDTH, FEED_FORWARD),
        "project/kernel": (FEED_FORWARD, WIDTH),
        "kernel": (queries, WIDTH, -(-classes // queries)),
    }
    leaves = {}
    for path, shape in shapes.items():
        inputs = shape[0] if len(shape) == 2 else WIDTH
        size = 1 / np.sqrt(3 * inputs) * (attention if "attention" in path else 1)
        leaves[path] = size * rng.standard_normal(shape)
        if path != "kernel":
            outputs = shape[1:] if path != "attention/out/kernel" else shape[2:]
            leaves[path.replace("kernel", "bias")] = biases * rng.standard_normal(outputs)
    leaves["bias"] = biases * rng.standard_normal(classes)
    for name in NORMS:
        leaves[f"{name}/scale"] = 1 + biases * rng.standard_normal(WIDTH)
        leaves[f"{name}/bias"] = biases * rng.standard_normal(WIDTH)
    return {path: leaf.astype(np.float32) for path, leaf in leaves.items()}


def values() -> dict[str, np.ndarray]:
    """Returns logits by classes and groups, spreads of initial kernels, and the noise."""
    import torch

    computed = {}
    for classes, groups in SIZES:
        reference = _decoder(classes, groups or -1, WIDTH, CHANNELS).eval()
        _set(reference, parameters(classes, groups))
        computed[f"logits {classes} {groups}"] = _forward(reference, MAP)
    torch.manual_seed(0)
    for path, kernel in _initial_kernels().items():
        computed[f"initial {path}"] = np.array([np.std(kernel), np.abs(kernel).max()])
    for attention in ATTENTION_SCALES:
        torch.manual_seed(0)
        reference = _decoder(NOISE_CLASSES, -1, WIDTH, CHANNELS).train()
        _set(reference, parameters(NOISE_CLASSES, attention=attention, biases=0.0))
        noisy = _forward(reference, np.broadcast_to(MAP[:1], (DRAWS, *MAP.shape[1:])))
        computed[f"noise {attention}"] = np.stack([noisy.mean(axis=0), noisy.std(axis=0)])
    published = _decoder(80, -1, 768, 1280)
    trained = sum(leaf.numel() for leaf in published.parameters() if leaf.requires_grad)
    return computed | {"parameters": np.array(trained)}


def _decoder(*arguments: int) -> Any:
    from reference_torch import import_torchvision

    import_torchvision()
    from timm.layers.ml_decoder import MLDecoder

    return MLDecoder(*arguments)


def _forward(reference: Any, x: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def _initial_kernels() -> dict[str, np.ndarray]:
    """Returns the kernels of a new decoder of timm, by the paths of ours."""
    reference = _decoder(KERNEL_CLASSES, -1, WIDTH, CHANNELS)
    layer = reference.decoder.layers[0]
    projections = layer.multihead_attn.in_proj_weight
    kernels = {
        "embed/kernel": reference.embed_standart.weight,
        "attention/query/kernel": projections[:WIDTH],
        "attention/key/kernel": projections[WIDTH : 2 * WIDTH],
        "attention/value/kernel": projections[2 * WIDTH :],
        "attention/out/kernel": layer.multihead_attn.out_proj.weight,
        "expand/kernel": layer.linear1.weight,
        "project/kernel": layer.linear2.weight,
        "kernel": reference.duplicate_pooling,
    }
    return {path: kernel.detach().numpy() for path, kernel in kernels.items()}


def _set(reference: Any, ours: dict[str, np.ndarray]) -> None:
    """Copies our leaves into timm's module; its queries without a class keep their values."""
    import torch

    kernels = {p: leaf.reshape(-1, WIDTH) for p, leaf in ours.items() if p.startswith("attention/")}
    parts = ("query", "key", "value")
    state = {
        "embed_standart.weight": ours["embed/kernel"].T,
        "embed_standart.bias": ours["embed/bias"],
        f"{LAYER}.multihead_attn.in_proj_weight": np.concatenate(
            [kernels[f"attention/{part}/kernel"].T for part in parts]
        ),
        f"{LAYER}.multihead_attn.in_proj_bias": np.concatenate(
            [ours[f"attention/{part}/bias"].ravel() for part in parts]
        ),
        f"{LAYER}.multihead_attn.out_proj.weight": kernels["attention/out/kernel"].T,
        f"{LAYER}.multihead_attn.out_proj.bias": ours["attention/out/bias"],
        f"{LAYER}.linear1.weight": ours["expand/kernel"].T,
        f"{LAYER}.linear1.bias": ours["expand/bias"],
        f"{LAYER}.linear2.weight": ours["project/kernel"].T,
        f"{LAYER}.linear2.bias": ours["project/bias"],
        "duplicate_pooling_bias": ours["bias"],
    }
    for number, name in enumerate(NORMS, start=1):
        state[f"{LAYER}.norm{number}.weight"] = ours[f"{name}/scale"]
        state[f"{LAYER}.norm{number}.bias"] = ours[f"{name}/bias"]
    count = len(ours["kernel"])
    queries = reference.query_embed.weight.detach().numpy().copy()
    pooling = reference.duplicate_pooling.detach().numpy().copy()
    queries[:count], pooling[:count] = fixed_queries(count, WIDTH), ours["kernel"]
    state |= {"query_embed.weight": queries, "duplicate_pooling": pooling}
    reference.load_state_dict({n: torch.from_numpy(value.copy()) for n, value in state.items()})
    # Replaced by its only layer, because newer versions of torch expect a self-attention there.
    reference.decoder = reference.decoder.layers[0]
