"""Training in Python: the same run, files and continuation as the command."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlcls_jax.api.model import LoadedModel, load
from mlcls_jax.api.session import session
from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.config.extensions import register
from mlcls_jax.config.loading import base_config, with_overrides
from mlcls_jax.config.recipes import with_fields
from mlcls_jax.config.serialization import with_absolute_paths
from mlcls_jax.data.loaders.own_batches import OwnBatches, own_batches
from mlcls_jax.run.checkpoints import has_checkpoint
from mlcls_jax.run.metrics_log import Logger, read_metrics
from mlcls_jax.run.workdir import FRAMES, read_config
from mlcls_jax.system.files import write_text
from mlcls_jax.train import train as run_training
from mlcls_jax.training.context import Extensions, Metric


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of `train`.

    Attributes:
        workdir: its folder.
        is_finished: False if a stop was requested before its last step; `train` continues it.
    """

    workdir: Path
    is_finished: bool

    @property
    def config(self) -> Config:
        """Returns the config of the run, with its recipe filled in."""
        return read_config(self.workdir)

    @property
    def history(self) -> pd.DataFrame:
        """Returns a row per evaluation, with columns such as phase, train_loss and val.mAP."""
        return pd.json_normalize(read_metrics(self.workdir)).set_index("step")

    def load(self, checkpoint: str | int = "best") -> LoadedModel:
        """Returns the trained model; see `mlcls_jax.load`."""
        return load(self.workdir, checkpoint)

    def _repr_html_(self) -> str:
        shown = [name for name in ("phase", "train_loss", "val.loss", "val.mAP", "val.CF1")]
        return self.history[shown].to_html()


def config(name: str | Path = "default", **fields: Any) -> Config:
    """Returns a config by name or from a file, with some fields set.

    Of a section, the fields that differ from their defaults are set; all others keep the values of
    the named config.  A path sets any value.

    Args:
        name: such as "b5" or "lite0", or the path of a config file.
        fields: sections, such as data=Data(csv="labels.csv", images="photos"), single fields, such
            as seed=1, or paths, such as **{"data.batch_size": 16}.

    Raises:
        ValueError: the config does not exist, or a field is unknown or has an impossible value.
    """
    known = {entry.name for entry in dataclasses.fields(Config)}
    base = base_config(str(name))
    whole = {
        field: _merged(getattr(base, field), value)
        for field, value in fields.items()
        if field in known
    }
    base = dataclasses.replace(base, **whole)
    frames = {field: getattr(base.data, field) for field in FRAMES}
    frames = {field: value for field, value in frames.items() if isinstance(value, pd.DataFrame)}
    plain = with_fields(base, {f"data.{field}": "DataFrame" for field in frames})
    rest = {field: value for field, value in fields.items() if field not in known}
    result = with_overrides(plain, [f"--config.{path}={value}" for path, value in rest.items()])
    for field, frame in frames.items():
        setattr(result.data, field, frame)
    return result


def _merged(section: Any, given: Any) -> Any:
    """Returns a section with the fields of another one of its type that have no default value."""
    if not dataclasses.is_dataclass(given) or type(given) is not type(section):
        return given
    default = type(section)()
    changed = {
        entry.name: getattr(given, entry.name)
        for entry in dataclasses.fields(given)
        if not _equal(getattr(given, entry.name), getattr(default, entry.name))
    }
    return dataclasses.replace(section, **changed)


def _equal(a: Any, b: Any) -> bool:
    """Returns whether two values are equal; a DataFrame is equal to nothing."""
    return not isinstance(a, pd.DataFrame) and a == b


def train(
    config: Config,
    workdir: str | Path,
    *,
    loss: Callable | None = None,
    augment: Callable | None = None,
    network: Any = None,
    variables: Any = None,
    loggers: Sequence[Logger] = (),
    metrics: Mapping[str, Metric] | None = None,
    batches: Iterable[Any] | OwnBatches | None = None,
) -> Run:
    """Trains, or continues a run, and returns it; docs/extending.md has examples of all arguments.

    Ctrl-C, or interrupting a notebook, saves a checkpoint and returns.

    Args:
        config: from `config`.
        workdir: folder of the run; a run that it holds is continued.
        loss: (logits, labels), both float32 [batch, class] -> losses of the same shape.
        augment: (uint8 [size, size, 3], numpy.random.Generator) -> uint8 [size, size, 3], after
            all other augmentation of a training image.
        network: see `Network`; a Flax module, or a function from num_classes to one.
        variables: pretrained variables of `network`; arrays of other shapes stay random.
        loggers: functions of a step and of numbers by name, such as {"val/mAP": 0.8}.
        metrics: further metrics by name: (labels int8 [image, class] with -1 for unknown,
            probabilities) -> a number.
        batches: training batches of one's own: an iterable of (images, labels), or a function from
            the first step to one, with which a continued run is exact.

    Raises:
        ValueError: the data, the config or the workdir is wrong; one line that names it.
        FloatingPointError: a loss is not finite.
    """
    folder = Path(workdir).expanduser()
    named = {"loss.custom": loss, "augment.custom": augment, "model.custom": network}
    given = {path: register(value) for path, value in named.items() if value is not None}
    config = with_fields(config, _written_labels(config.data, folder) | given)
    validate(config)
    extensions = Extensions(
        loggers=tuple(loggers),
        metrics=dict(metrics or {}),
        batches=None if batches is None else own_batches(batches),
        variables=variables,
    )
    with session():
        code = run_training(with_absolute_paths(config), folder, extensions=extensions)
    return Run(folder.absolute(), is_finished=not code)


def _written_labels(data: Data, workdir: Path) -> dict[str, str]:
    """Writes DataFrames of labels to the workdir, and returns the fields that name the files.

    Raises:
        ValueError: the workdir holds a run with other labels.
    """
    paths: dict[str, str] = {}
    for field, name in FRAMES.items():
        frame = getattr(data, field)
        if not isinstance(frame, pd.DataFrame):
            continue
        path, text = workdir / name, frame.to_csv(index=False)
        paths[f"data.{field}"] = str(path)
        if has_checkpoint(workdir) and path.is_file() and path.read_text("utf-8") != text:
            raise ValueError(
                f"data.{field}: the DataFrame differs from {path}, with which the run in {workdir} "
                "began; choose another workdir"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return paths
