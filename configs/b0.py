"""EfficientNet-B0 at 224 px, 5.3 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config b0 --workdir runs/b0 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: timm's file, a point or more better than Keras's; verified by the checksum from the hub.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="b0"), data=Data(batch_size=64))
