"""EfficientNetV2-B1 at 240 px, 8.1 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config v2b1 --workdir runs/v2b1 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: the published Keras file, downloaded once with a pinned checksum.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="v2b1"), data=Data(batch_size=64))
