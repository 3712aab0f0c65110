"""timm's side of compare_peers.py: channels last, on all cores."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_worker import NUM_CLASSES, Step, cores, random_batch

sys.path.append(str(Path(__file__).parents[1] / "weights"))
from reference_torch import IMAGENET_MEAN, IMAGENET_STD, import_torchvision

import_torchvision()  # before timm, which imports it too
import timm  # noqa: E402

DROP_PATH = 0.2


def versions() -> str:
    """Returns the versions of the libraries, and the instruction set of torch's kernels."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"timm {timm.__version__} on torch {torch.__version__} ({capability})"


def build(
    variant: str,
    size: int,
    batch: int,
    dropout: float,
    bfloat16: bool = False,
    compiled: bool = False,
) -> dict[str, Step]:
    """Returns the steps for peer_worker.py.

    The network is timm's own `efficientnet_*`, because those with TensorFlow's padding copy more.

    Args:
        variant: such as "b0".
        size: image size in pixels.
        batch: images per step.
        dropout: dropout rate of the head.
        bfloat16: whether torch's autocast computes in bfloat16 where it can.
        compiled: whether torch.compile compiles the network.
    """
    torch.set_num_threads(cores())
    model: Any = timm.create_model(
        f"efficientnet_{variant}",
        num_classes=NUM_CLASSES,
        drop_rate=dropout,
        drop_path_rate=DROP_PATH,
    )
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images, labels = (torch.from_numpy(rows) for rows in random_batch(size, batch))
    images, targets = images.permute(0, 3, 1, 2), labels.float()  # NHWC in memory: channels last
    mean, std = (
        255 * torch.tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )

    network = torch.compile(model) if compiled else model

    def compute_logits() -> torch.Tensor:
        normalized = images.float().sub_(mean).div_(std)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return network(normalized).float()

    def forward() -> np.ndarray:
        model.eval()
        with torch.inference_mode():
            return compute_logits().numpy()

    def train() -> float:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(compute_logits(), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"forward": forward, "train": train}
