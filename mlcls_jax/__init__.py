"""mlcls_jax: fine-tune ImageNet-pretrained EfficientNets for multi-label image classification.

    import mlcls_jax as ml

    config = ml.config("lite0", data=ml.Data(csv="labels.csv", images="photos"))
    run = ml.train(config, "runs/mine")
    ml.load("runs/mine").predict("photo.jpg")

docs/api.md explains it.  A name is imported when it is first used.
"""

import importlib
import logging
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mlcls_jax.api.configs import config
    from mlcls_jax.api.datasets import tf_dataset
    from mlcls_jax.api.model import LoadedModel, load
    from mlcls_jax.api.results import EvaluationResult, Predictions
    from mlcls_jax.api.training import Run, train
    from mlcls_jax.config import (
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
        Train,
    )
    from mlcls_jax.models.weights.load import Pretrained, load_pretrained
    from mlcls_jax.run.loggers.logger import LoggedImage, RunLogger
    from mlcls_jax.step.custom_network import Network

_MODULES = {
    "api.configs": ("config",),
    "api.datasets": ("tf_dataset",),
    "api.model": ("LoadedModel", "load"),
    "api.results": ("EvaluationResult", "Predictions"),
    "api.training": ("Run", "train"),
    "config": (
        *("Augment", "Checkpoint", "Config", "Data", "Distributed", "Evaluation", "Group", "Log"),
        *("Loss", "Model", "Phase", "Train"),
    ),
    "models.weights.load": ("Pretrained", "load_pretrained"),
    "run.loggers.logger": ("LoggedImage", "RunLogger"),
    "step.custom_network": ("Network",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Augment",
    "Checkpoint",
    "Config",
    "Data",
    "Distributed",
    "Evaluation",
    "EvaluationResult",
    "Group",
    "LoadedModel",
    "Log",
    "LoggedImage",
    "Loss",
    "Model",
    "Network",
    "Phase",
    "Predictions",
    "Pretrained",
    "Run",
    "RunLogger",
    "Train",
    "config",
    "load",
    "load_pretrained",
    "tf_dataset",
    "train",
]


class _Package(types.ModuleType):
    """The package, whose functions `config` and `train` go before its modules of these names.

    Importing mlcls_jax.train would otherwise replace the function by the module.
    """

    def __getattr__(self, name: str) -> Any:
        """Imports a public name when it is first used."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'mlcls_jax' has no attribute {name!r}")
        handlers = logging.root.handlers[:]
        value = getattr(importlib.import_module(f"mlcls_jax.{_MODULE_OF[name]}"), name)
        logging.root.handlers[:] = handlers  # Orbax adds one when it is imported
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Ignores a submodule that the import system adds under the name of a function."""
        if name not in _MODULE_OF or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
