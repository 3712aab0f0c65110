"""timm's side of part 3: channels last, AMP in bfloat16, fused AdamW; not compiled by torch."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import time
from typing import Any

import torch
from reference_torch import IMAGENET_MEAN, IMAGENET_STD, import_torchvision

import_torchvision()  # before timm, which imports it too
import timm  # noqa: E402

CLASSES = 80
NAMES = {"v2s": "efficientnetv2_s"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def versions() -> str:
    """Returns the versions of the libraries."""
    return f"timm {timm.__version__} on torch {torch.__version__}"


def build(
    what: str, variant: str, size: int, batch: int, compiled: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Returns the step for speed_worker.py; `compiled` lets torch.compile compile the network."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    name = NAMES.get(variant, f"efficientnet_{variant}")
    model: Any = timm.create_model(
        name, num_classes=CLASSES, drop_rate=0.2, drop_path_rate=0.2, exportable=False
    )
    model = model.to(DEVICE, memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=DEVICE)
    images, targets = pixels.permute(0, 3, 1, 2), torch.ones(batch, CLASSES, device=DEVICE)
    mean, std = (
        255 * torch.tensor(values, device=DEVICE).reshape(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    if what == "frozen":
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in model.get_classifier().parameters():
            parameter.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=DEVICE == "cuda")
    model.train(what == "train")
    network = torch.compile(model) if compiled else model

    def logits() -> torch.Tensor:
        with torch.autocast(DEVICE, torch.bfloat16):
            return network(images.float().sub_(mean).div_(std))

    def step() -> None:
        if what == "forward":
            with torch.inference_mode():
                logits()
            return
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits().float(), targets)
        loss.backward()
        optimizer.step()

    def run(steps: int) -> float:
        synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize()
        return time.perf_counter() - began

    return run, {}


def synchronize() -> None:
    """Waits for the GPU."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def memory() -> dict[str, Any]:
    """Returns the peak memory of the device so far."""
    return {"peak_memory": torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None}
