"""Every default of mlcls_jax/config/schema.py: EfficientNet-B0 at 224 px; head first, then all.

mlcls-jax train --config default --workdir runs/mine \\
    --config.data.csv=labels.csv --config.data.images=photos
"""

from mlcls_jax.config import Config


def get_config() -> Config:
    return Config()
