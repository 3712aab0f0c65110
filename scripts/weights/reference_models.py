"""The code bases with which our networks are compared, and their variants.

A reference has random weights. It saves them as its code base does, computes logits with its own
normalisation, and can run one forward pass in training mode. The reference files import nothing of
this package.

Needs the extra `reference`. The code bases are imported where they are used, because together they
take ten seconds, and TensorFlow alone takes 0.5 GB.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from reference_keras import KerasReference
from reference_torch import lukemelas_reference, timm_reference, torchvision_reference
from reference_weights import Reference

B = tuple(f"b{i}" for i in range(8))
LITE = tuple(f"lite{i}" for i in range(5))
V2_B = tuple(f"v2b{i}" for i in range(4))
V2 = ("v2s", "v2m", "v2l")

VARIANTS = (*B, *LITE, *V2_B, *V2)


@dataclass(frozen=True)
class CodeBase:
    """The variants of a code base, and a function that builds the reference of one of them."""

    variants: tuple[str, ...]
    build: Callable[[str, np.random.Generator], Reference]


CODE_BASES = {
    "keras": CodeBase((*B, *V2_B, *V2), KerasReference),
    "timm tf": CodeBase((*B, *LITE, *V2_B, *V2), partial(timm_reference, "tf_")),
    "timm tf AdvProp": CodeBase(B, partial(timm_reference, "tf_", tag="ap_in1k")),
    "timm tf Noisy Student": CodeBase(B, partial(timm_reference, "tf_", tag="ns_jft_in1k")),
    "timm": CodeBase((*B, *LITE, *V2), partial(timm_reference, "")),
    "torchvision": CodeBase((*B, *V2), torchvision_reference),
    "lukemelas": CodeBase(B, lukemelas_reference),
    "lite fork": CodeBase(LITE, partial(lukemelas_reference, lite=True)),
}
