"""EfficientNet-B1 at 240 px, 7.8 M parameters with 1000 classes; head first, then all.

python -m mlcls_jax.train --config configs/b1.py --workdir runs/b1 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: timm's plain file (names.py says why), checked against the checksum that the hub states.
Hardware, time, metric: not measured yet at this size; the README's table says what was.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="b1"), data=Data(batch_size=64))
