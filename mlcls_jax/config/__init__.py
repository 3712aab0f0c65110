"""The configuration of a run: `from mlcls_jax.config import Config, Data, Phase, Group`."""

from mlcls_jax.config.schema import (
    Augment,
    Checkpoint,
    Config,
    Data,
    Distributed,
    Evaluation,
    Group,
    Log,
    Loss,
    Model,
    Phase,
    PosWeight,
    Train,
    default_phases,
)

__all__ = [
    "Augment",
    "Checkpoint",
    "Config",
    "Data",
    "Distributed",
    "Evaluation",
    "Group",
    "Log",
    "Loss",
    "Model",
    "Phase",
    "PosWeight",
    "Train",
    "default_phases",
]
