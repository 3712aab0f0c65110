"""EfficientNet-B0 at 224 px, 5.3 M parameters with 1000 classes; head first, then all.

python -m mlcls_jax.train --config configs/b0.py --workdir runs/b0 \\
    --config.data.csv=labels.csv --config.data.images=photos

Weights: timm's plain file (names.py says why), checked against the checksum that the hub states.
Hardware, time, metric: not measured yet at this size; the README's table says what was.
"""

from mlcls_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(model=Model(variant="b0"), data=Data(batch_size=64))
