"""Fine-tunes timm's EfficientNet on a CSV with a split column, as a plain torch loop.

    python scripts/peers/learn_timm.py --csv fold.csv --images photos --weights lite0.safetensors \\
        --model tf_efficientnet_lite0 --out scores.csv

The comparison of learning in docs/results.md runs it by scripts/learning/train_folds.py.  Its
settings are common ones: images squashed by Pillow, flips, AdamW, the head alone at 1e-2, then
everything at 1e-3 with a cosine, batch normalisation frozen, the mean cross-entropy over all
labels, and the parameters of the last step.  The options change them; --rand-augment is timm's own
RandAugment, while everything trains.

train_folds.py writes the file of weights, so that both sides start from the same numbers.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

sys.path.append(str(Path(__file__).parents[1] / "weights"))
from reference_torch import import_torchvision

import_torchvision()  # before timm, which imports it too
import timm  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from timm.data.auto_augment import rand_augment_transform  # noqa: E402

HEAD_RATE, DECAY, WARMUP, EVAL_ROWS = 1e-2, 1e-4, 10, 64
MEAN, STD = 127.0, 128.0  # of EfficientNet-Lite


def main() -> None:
    options = parse()
    began = time.perf_counter()
    table = pd.read_csv(options.csv)
    classes = [name for name in table.columns if name not in ("filename", "split")]
    images = np.stack([read(options.images / name, options.size) for name in table["filename"]])
    labels = table[classes].to_numpy(np.float32)
    if not ((labels == 0) | (labels == 1)).all():
        raise SystemExit(f"error: {options.csv} has unknown labels, which this loop does not mask")
    train, val = (np.flatnonzero(table["split"] == split) for split in ("train", "val"))
    for seed in (torch.manual_seed, np.random.seed, random.seed):  # RandAugment uses the latter two
        seed(options.seed)
    model = make_model(options, labels[train])
    rng = np.random.default_rng(options.seed)
    head = list(model.get_classifier().parameters())
    fit(model, head, images[train], labels[train], options, rng)
    fit(model, list(model.parameters()), images[train], labels[train], options, rng, whole=True)
    frame = pd.DataFrame(scores(model, images[val]), columns=pd.Index(classes))
    frame.insert(0, "filename", table["filename"].to_numpy()[val])
    frame.to_csv(options.out, index=False)
    print(f"{len(val)} images scored after {time.perf_counter() - began:.0f} s")


def parse() -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--csv", type=Path, required=True, help="filename, one column per class, split")
    add("--images", type=Path, required=True, help="folder of the images")
    add("--weights", type=Path, required=True, help="safetensors file with timm's names")
    add("--model", default="tf_efficientnet_lite0", help="name of the network in timm")
    add("--out", type=Path, required=True, help="CSV for the logits of the val images")
    add("--size", type=int, default=224, help="side of the images in pixels")
    add("--epochs", type=int, nargs=2, default=(6, 12), help="of the head, of everything")
    add("--rate", type=float, default=1e-3, help="learning rate of everything")
    add("--mixup", type=float, default=0.0, help="alpha of mixup while everything trains")
    add("--rand-augment", type=int, default=0, help="operations per image while everything trains")
    add("--magnitude", type=int, default=5, help="of RandAugment")
    add("--dropout", type=float, default=0.0, help="rate before the head")
    add("--drop-path", type=float, default=0.0, help="rate of the last block")
    add("--batch-size", type=int, default=32, help="images per step")
    add("--seed", type=int, default=0, help="of everything random")
    return parser.parse_args()


def read(path: Path, size: int) -> np.ndarray:
    """Returns an image squashed to a square: uint8 [size, size, 3]."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR))


def make_model(options: argparse.Namespace, labels: np.ndarray) -> Any:
    """Returns the network with a head of zeros and the log-odds of the class frequencies."""
    rates = {"drop_rate": options.dropout, "drop_path_rate": options.drop_path}
    model: Any = timm.create_model(options.model, num_classes=labels.shape[1], **rates)
    tensors = load_file(options.weights)
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    missing, unexpected = model.load_state_dict(body, strict=False)
    if unexpected or any(not name.startswith("classifier") for name in missing):
        raise ValueError(f"{options.weights} is not {options.model}: {missing}, {unexpected}")
    frequency = torch.from_numpy(labels.mean(0).clip(1e-3, 1 - 1e-3))
    head = model.get_classifier()
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.logit(frequency))
    return model.to(memory_format=torch.channels_last)


def fit(
    model: Any,
    parameters: list[torch.nn.Parameter],
    images: np.ndarray,
    labels: np.ndarray,
    options: argparse.Namespace,
    rng: np.random.Generator,
    *,
    whole: bool = False,
) -> None:
    """Trains the given parameters: the head, or those of the whole network.

    The last incomplete batch of an epoch is dropped.
    """
    epochs, rate = (options.epochs[whole], options.rate if whole else HEAD_RATE)
    mixup, augment = (options.mixup, augmentation(options)) if whole else (0.0, None)
    rows = options.batch_size
    per_epoch = len(images) // rows
    steps = epochs * per_epoch
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.permutation(len(images))
        chosen = order[step % per_epoch * rows :][:rows]
        augmented = augment(images[chosen]) if augment else images[chosen]
        pixels, targets = prepare(augmented, rng), torch.from_numpy(labels[chosen])
        if mixup:
            share = rng.beta(mixup, mixup)
            pixels = share * pixels + (1 - share) * pixels.flip(0)
            targets = share * targets + (1 - share) * targets.flip(0)
        warm = min(1.0, (step + 1) / (WARMUP + 1))
        cosine = 0.5 * (1 + np.cos(np.pi * max(0, step - WARMUP) / max(1, steps - WARMUP)))
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * cosine
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(pixels), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def augmentation(options: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray] | None:
    """Returns timm's RandAugment of a batch, or None without it."""
    if not options.rand_augment:
        return None
    settings = {"translate_const": round(0.45 * options.size), "img_mean": (128, 128, 128)}
    change = rand_augment_transform(f"rand-m{options.magnitude}-n{options.rand_augment}", settings)
    return lambda images: np.stack([np.asarray(change(Image.fromarray(x))) for x in images])


def prepare(images: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
    """Returns normalised images, channels last in memory; half of them mirrored with an rng."""
    if rng is not None:
        mirrored = rng.random(len(images)) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().sub_(MEAN).div_(STD)


def scores(model: Any, images: np.ndarray) -> np.ndarray:
    """Returns the logits: float32 [image, class]."""
    model.eval()
    with torch.inference_mode():
        parts = [prepare(images[i : i + EVAL_ROWS]) for i in range(0, len(images), EVAL_ROWS)]
        return torch.cat([model(part) for part in parts]).numpy()


if __name__ == "__main__":
    main()
