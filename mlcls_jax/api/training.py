"""Training in Python: the same run, files and continuation as the command."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from mlcls_jax.api.configs import with_frames, written_labels
from mlcls_jax.api.model import LoadedModel, load
from mlcls_jax.api.session import session
from mlcls_jax.config import Config
from mlcls_jax.config.checks import validate
from mlcls_jax.config.extensions import register, resolve
from mlcls_jax.config.log_checks import check_installed
from mlcls_jax.config.recipes import with_fields
from mlcls_jax.config.serialization import with_absolute_paths
from mlcls_jax.data.card.data_card import DataCard
from mlcls_jax.data.loaders.own_batches import OwnBatches, own_batches
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.data_card import read_card
from mlcls_jax.run.loggers.logger import Logger
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.score_table import FURTHER, MAIN
from mlcls_jax.run.workdir import read_config
from mlcls_jax.system.console import console
from mlcls_jax.system.heap import SWITCH, TUNABLES, heap_tunables, wants_heap
from mlcls_jax.system.remote import is_remote
from mlcls_jax.train import train as run_training
from mlcls_jax.training.context import Extensions, Metric

# The fields of the config that name what `train` is given.
_FIELDS = {"loss": "loss.custom", "augment": "augment.custom", "network": "model.custom"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of `train`.

    Attributes:
        workdir: its folder, or its address in a bucket.
        is_finished: False if a stop was requested before its last step; `train` continues it.
    """

    workdir: Path | str
    is_finished: bool

    @property
    def config(self) -> Config:
        """Returns the config of the run, with its recipe filled in."""
        return read_config(open_workdir(self.workdir))

    @property
    def history(self) -> pd.DataFrame:
        """Returns a row per evaluation, with columns such as phase, train_loss and val.mAP."""
        return pd.json_normalize(read_metrics(open_workdir(self.workdir))).set_index("step")

    @property
    def data_card(self) -> DataCard | None:
        """Returns what was known of the data before the first step; None if that was not kept."""
        return read_card(open_workdir(self.workdir))

    def load(self, checkpoint: str | int = "best") -> LoadedModel:
        """Returns the trained model; see `mlcls_jax.load`."""
        return load(self.workdir, checkpoint)

    def _repr_html_(self) -> str:
        return self.history[["phase", "train_loss", "val.loss", "val.mAP", "val.CF1"]].to_html()


def train(
    config: Config,
    workdir: str | Path,
    *,
    loss: Callable | None = None,
    augment: Callable | None = None,
    network: Any = None,
    variables: Any = None,
    loggers: Logger | Sequence[Logger] = (),
    metrics: Mapping[str, Metric] | None = None,
    batches: Iterable[Any] | OwnBatches | None = None,
    accept_changed_data: bool = False,
) -> Run:
    """Trains, or continues a run, and returns it; docs/extending.md has examples of all arguments.

    Ctrl-C, or interrupting a notebook, saves a checkpoint and returns.

    Args:
        config: from `config`.
        workdir: folder of the run, or its address in a bucket; a run that it holds is continued.
        loss: (logits, labels), both float32 [batch, class] -> losses of the same shape.
        augment: (uint8 [size, size, 3], numpy.random.Generator) -> uint8 [size, size, 3], after
            all other augmentation of a training image.
        network: see `Network`; a Flax module, or a function from num_classes to one.
        variables: pretrained variables of `network`; arrays of other shapes stay random.
        loggers: functions of a step and of numbers by name, such as {"val/mAP": 0.8}, or
            `RunLogger`s, which take more; log.to of the config names others.
        metrics: further metrics by name: (labels int8 [image, class] with -1 for unknown,
            probabilities) -> a number.
        batches: training batches of one's own: an iterable of (images, labels), or a function from
            the first step to one, with which a continued run is exact.
        accept_changed_data: whether a run continues with labels, splits or a config.json that were
            changed since it began.

    Raises:
        ValueError: the data, the config or the workdir is wrong; one line that names it.
        FloatingPointError: a loss is not finite.
    """
    if not isinstance(config, Config):
        raise ValueError(
            f"config is a {type(config).__name__}; pass mlcls_jax.config(...), such as "
            'mlcls_jax.config("lite0", csv="labels.csv", images="photos")'
        )
    if variables is not None and network is None:
        raise ValueError("variables are those of a network; pass network as well")
    folder = open_workdir(workdir).expanduser()
    functions = {"loss": loss, "augment": augment, "network": network}
    given = {
        _FIELDS[name]: _name(name, value) for name, value in functions.items() if value is not None
    }
    config = with_frames(config, {})
    labels = written_labels(config.data, folder, accept_changed_data)
    config = with_fields(config, labels | given)
    validate(config)
    check_installed(config.log)
    if batches is not None and config.data.oversample != "none":
        raise ValueError(
            f"config: data.oversample is {config.data.oversample!r}, but batches of your own are "
            "taken as they come; remove one of the two"
        )
    extensions = Extensions(
        loggers=tuple(loggers) if isinstance(loggers, Sequence) else (loggers,),
        metrics=_metrics(metrics or {}),
        batches=None if batches is None else own_batches(batches),
        variables=variables,
        accept_changed_data=accept_changed_data,
    )
    with session():
        _advise_heap()
        code = run_training(with_absolute_paths(config), folder, extensions=extensions)
    place = str(workdir) if is_remote(workdir) else folder.absolute()
    return Run(place, is_finished=not code)


@functools.cache  # once per process
def _advise_heap() -> None:
    """Prints how this process could have trained faster on CPU, which the commands do."""
    if wants_heap() and jax.default_backend() == "cpu":
        console.print(
            f"Training on CPU is faster if Python starts with {TUNABLES}={heap_tunables()}; "
            f"{SWITCH}=0 hides this line"
        )


def _name(argument: str, value: Any) -> str:
    """Returns the name of a function or network for the config.

    Raises:
        ValueError: it is neither "module:function" nor something that can be called.
    """
    if isinstance(value, str):
        resolve(value, argument)
        return value
    if not callable(value) and not hasattr(value, "apply"):
        raise ValueError(
            f"{argument} is a {type(value).__name__}; pass a function, or the name of "
            'one, "module:function"'
        )
    return register(value)


def _metrics(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Returns the metrics after checking their names.

    Raises:
        ValueError: not a dictionary, or a name is that of a metric of the trainer.
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(
            f'metrics is a {type(metrics).__name__}; pass a dict, such as {{"f2": f2}}'
        )
    taken = [name for name in metrics if name.split("@")[0] in {**MAIN, **FURTHER}]
    if taken:
        raise ValueError(f"metrics: {taken[0]!r} is a metric of the trainer; choose another name")
    return dict(metrics)
