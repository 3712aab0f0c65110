"""EfficientNet-B7 at 600 px, 66.3 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config b7 --workdir runs/b7 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: the published Keras file, downloaded once with a pinned checksum.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="b7"), data=Data(batch_size=8))
