"""EfficientNet-B4 at 380 px, 19.3 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config b4 --workdir runs/b4 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: the published Keras file, downloaded once with a pinned checksum.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="b4"), data=Data(batch_size=32))
