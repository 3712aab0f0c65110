"""EfficientNet-B1 at 240 px, 7.8 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config b1 --workdir runs/b1 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: timm's file, a point or more better than Keras's; verified by the checksum from the hub.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="b1"), data=Data(batch_size=64))
