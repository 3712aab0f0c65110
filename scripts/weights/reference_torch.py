"""timm, torchvision, EfficientNet-PyTorch and its Lite fork as references."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from reference_weights import (
    CALIBRATION_SHAPE,
    NUM_CLASSES,
    Reference,
    disturbed,
    random_bias,
    random_images,
    random_kernel,
    random_scale,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3

Write = Callable[[Any, Path], dict[str, Path]]


class TorchReference(Reference):
    """A torch.nn.Module that computes logits from normalised images."""

    def __init__(
        self,
        model: Any,
        rng: np.random.Generator,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        write: Write,
    ):
        self.model, self.mean, self.std = model, mean, std
        self._write = write
        self._randomise(rng)

    def save(self, folder: Path) -> dict[str, Path]:
        folder.mkdir(parents=True)
        return self._write(self.model, folder)

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self._forward(images, train=False)

    def train_forward(self, images: np.ndarray) -> None:
        self._forward(images, train=True)

    def _forward(self, images: np.ndarray, train: bool) -> np.ndarray:
        """Returns logits in the precision of the model."""
        import torch

        dtype = next(self.model.parameters()).dtype
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype) / 255
        mean, std = (torch.tensor(v, dtype=dtype)[:, None, None] for v in (self.mean, self.std))
        with torch.no_grad():
            return self.model.train(train)((x - mean) / std).numpy()

    def _randomise(self, rng: np.random.Generator) -> None:
        import torch

        norms: list[Any]
        norms = [m for m in self.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for name, parameter in self.model.named_parameters():
            shape = tuple(parameter.shape)
            kernel = random_kernel if len(shape) > 1 else random_scale
            make = random_bias if name.endswith("bias") else kernel
            parameter.data = torch.from_numpy(make(rng, shape))
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        self.train_forward(random_images(rng, CALIBRATION_SHAPE))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
            mean, variance = disturbed(rng, mean, variance)
            norm.running_mean.copy_(torch.from_numpy(mean))
            norm.running_var.copy_(torch.from_numpy(variance))


@cache
def import_torchvision() -> Any:
    """Imports torchvision for its models, even if its compiled operators do not load.

    The wheel on PyPI is compiled for torch with CUDA. With torch for CPU its operators do not load,
    and `import torchvision` fails because it registers shapes for nms and qnms. Declaring these
    operators first makes the import work.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(declared)
        import torchvision
    return torchvision


_declared: list[Any] = []  # an operator exists as long as its library


def _write_torch(model: Any, folder: Path) -> dict[str, Path]:
    import torch

    paths = {".pth zip": folder / "zip.pth", ".pth stream": folder / "stream.pth"}
    for layout, path in paths.items():
        is_zip = layout.endswith("zip")
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    return paths


def _write_timm(model: Any, folder: Path) -> dict[str, Path]:
    """A file named after its weights, and a folder as on the Hugging Face hub."""
    from safetensors.torch import save_file
    from timm.models import save_for_hf

    cfg = model.pretrained_cfg
    name = ".".join(filter(None, (cfg["architecture"], cfg.get("tag"))))
    named = folder / f"{name}.safetensors"
    save_file(model.state_dict(), named)
    save_for_hf(model, str(folder / "hub"), safe_serialization=True)
    return {"named .safetensors": named, "hub .safetensors": folder / "hub/model.safetensors"}


def timm_reference(
    prefix: str, variant: str, rng: np.random.Generator, tag: str = ""
) -> TorchReference:
    """Builds a reference of timm.

    Args:
        prefix: "tf_" for the networks with weights converted from TensorFlow, "" for timm's own.
        variant: such as "b0", "lite0", "v2s", "v2b0".
        rng: draws the weights.
        tag: published weights whose normalisation and file name to use.
    """
    import_torchvision()  # before timm, which imports it too
    import timm

    short = f"v2_{variant[2:]}" if variant.startswith("v2") else f"_{variant}"
    if not tag and prefix and variant.startswith("b"):
        tag = "aa_in1k"  # timm's default is Noisy Student
    name = ".".join(filter(None, (f"{prefix}efficientnet{short}", tag)))
    model: Any = timm.create_model(name, num_classes=NUM_CLASSES)  # by default without dropout
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    return TorchReference(model, rng, mean, std, _write_timm)


def torchvision_reference(variant: str, rng: np.random.Generator) -> TorchReference:
    """Builds a reference of torchvision, with the normalisation of its published weights."""
    models = import_torchvision().models
    short = f"v2_{variant[2:]}" if variant.startswith("v2") else variant
    model = models.get_model(
        f"efficientnet_{short}", num_classes=NUM_CLASSES, dropout=0.0, stochastic_depth_prob=0.0
    )
    transforms = models.get_model_weights(f"efficientnet_{short}").DEFAULT.transforms()
    return TorchReference(model, rng, transforms.mean, transforms.std, _write_torch)


def lukemelas_reference(
    variant: str, rng: np.random.Generator, lite: bool = False
) -> TorchReference:
    """Builds a reference of github.com/lukemelas/EfficientNet-PyTorch, or of its fork for Lite."""
    if lite:
        from efficientnet_lite_pytorch import EfficientNet
    else:
        from efficientnet_pytorch import EfficientNet
    model = EfficientNet.from_name(
        f"efficientnet-{variant}",
        num_classes=NUM_CLASSES,
        image_size=None,  # pads for each input instead of the variant's image size
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )
    mean, std = (LITE_MEAN, LITE_STD) if lite else (IMAGENET_MEAN, IMAGENET_STD)
    return TorchReference(model, rng, mean, std, _write_torch)
