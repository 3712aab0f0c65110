"""EfficientNet-B3 at 300 px, 12.2 M parameters with 1000 classes; head first, then all.

mlcls-jax train --config b3 --workdir runs/b3 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: the published Keras file, downloaded once with a pinned checksum.
Hardware, time, metric: not measured at this size; docs/results.md has the measured ones.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="b3"), data=Data(batch_size=32))
