"""EfficientNet-Lite4 at 300 px, 13.0 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config lite4 --workdir runs/lite4 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: timm's file, verified by the checksum from the hub.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="lite4"), data=Data(batch_size=32))
