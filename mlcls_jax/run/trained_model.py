"""Trained models: loading one from a workdir, and writing its predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dacite
import jax
import numpy as np

from mlcls_jax.config import Config, Model, Phase
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.evaluation.inference import EvalSpec, eval_spec, predict_dataset
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.models.weights.provenance import from_json
from mlcls_jax.run.best_scores import read_decision_rule
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.stored_config import OF_MODEL, describe_edits, edited_fields
from mlcls_jax.run.workdir import EMA, read_config
from mlcls_jax.step.ema import NO_EMA
from mlcls_jax.step.network import NetworkSpec, build_model, network_spec, variables_shape
from mlcls_jax.step.programs import ema_leaves
from mlcls_jax.step.train_step import make_eval_step
from mlcls_jax.system.console import one_line, print_warning
from mlcls_jax.system.devices import make_mesh
from mlcls_jax.system.files import write_text


@dataclass(frozen=True)
class _BaseRate:
    frequencies: list[float]
    included_classes: list[bool]


@dataclass(frozen=True)
class _RequiredMetadata:
    """The fields that every checkpoint has; other modules read further fields."""

    step: int
    phase: str
    classes: list[str]
    base_rate: _BaseRate
    pretrained_config: dict


def check_metadata(metadata: Any, step: int) -> dict[str, Any]:
    """Returns the metadata of a checkpoint after checking it.

    Args:
        metadata: as it was read.
        step: of the checkpoint.

    Raises:
        ValueError: a field is missing, of another type, or contradicts another one.
    """
    damaged = f"the metadata of checkpoint {step} is damaged"
    try:
        required = dacite.from_dict(_RequiredMetadata, metadata)
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        raise ValueError(f"{damaged}: {one_line(error)}; use another checkpoint") from error
    classes, base = required.classes, required.base_rate
    problems = {
        f"it is of step {required.step}": required.step != step,
        "it has no class, or one twice": not classes or len(set(classes)) < len(classes),
        "it does not have one base rate for each class": not (
            len(classes) == len(base.frequencies) == len(base.included_classes)
        ),
        "a base rate is not in [0, 1]": not all(0 <= share <= 1 for share in base.frequencies),
    }
    for problem, is_found in problems.items():
        if is_found:
            raise ValueError(f"{damaged}: {problem}; use another checkpoint")
    return metadata


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, ready to predict.

    Attributes:
        config: of the run.
        classes: names, in the order of the outputs.
        metadata: of the checkpoint.
        variables: {params, batch_stats} on every device of the mesh.
        pretrained_config: convention and normalisation of the weights it was trained from.
        decision_rule: thresholds and temperatures of the checkpoint.
        predict: (variables, uint8 images sharded over the mesh) -> float32 logits.
        mesh: of all devices.
    """

    config: Config
    classes: tuple[str, ...]
    metadata: dict[str, Any]
    variables: dict
    pretrained_config: PretrainedConfig
    decision_rule: DecisionRule
    predict: Any
    mesh: jax.sharding.Mesh

    @property
    def network(self) -> NetworkSpec:
        """Returns the settings of the network."""
        return network_spec(self.config.model, len(self.classes))

    @property
    def evaluation(self) -> EvalSpec:
        """Returns how images are batched and resized."""
        return eval_spec(self.config)

    def outputs(
        self, paths: Sequence[str], reader: Reader, title: str = "", program: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits of images, and which of them could be read.

        Args:
            paths: of the images.
            reader: reads them.
            title: of the progress bar; "": none.
            program: computes something else than `predict` from the same arguments.

        Returns, Raises: see `predict_dataset`.
        """
        program = program or self.predict
        return predict_dataset(
            program, self.variables, paths, self.evaluation, self.mesh, reader, title
        )


def load_trained_model(
    workdir: Path, which: str, accept_changed_data: bool = False
) -> TrainedModel:
    """Loads the model of a run from one of its checkpoints.

    Args:
        workdir: of the run.
        which: "best", "latest" or the number of a step.
        accept_changed_data: whether an edited config.json is only a warning.

    Raises:
        ValueError: the workdir holds no run, the checkpoint does not exist or is damaged, or
            config.json is not the config that it was saved with.
    """
    config, mesh = read_config(workdir), make_mesh()
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.resolve(which)
    metadata = check_metadata(checkpoints.metadata(step), step)
    if changed := edited_fields(workdir, metadata.get("config"), OF_MODEL):
        if not accept_changed_data:
            raise ValueError(describe_edits(workdir, changed))
        print_warning(f"{workdir}: config.json was edited ({'; '.join(changed)})")
        # Whether the variables still fit the network is only known by tracing it.
        target = variables_shape(network_spec(config.model, len(metadata["classes"])), mesh)
    else:
        target = checkpoints.saved_shapes(step, mesh)
    variables = best_variables(checkpoints, metadata, target, config.phases)
    checkpoints.close()
    return TrainedModel(
        config=config,
        variables=variables,
        decision_rule=read_decision_rule(workdir, metadata),
        **from_metadata(metadata, config.model, mesh),
    )


def from_metadata(
    metadata: dict[str, Any], model: Model, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """Returns the attributes of a TrainedModel that follow from the metadata of its checkpoint."""
    pretrained_config = read_pretrained_config(metadata)
    network = network_spec(model, len(metadata["classes"]))
    return {
        "classes": tuple(metadata["classes"]),
        "metadata": metadata,
        "pretrained_config": pretrained_config,
        "predict": prediction_step(network, pretrained_config, mesh),
        "mesh": mesh,
    }


def prediction_step(
    network: NetworkSpec, pretrained_config: PretrainedConfig, mesh: jax.sharding.Mesh
) -> Any:
    """Returns the compiled function (variables, uint8 images) -> float32 logits of a network."""
    model = build_model(network, pretrained_config.convention)
    return make_eval_step(model, pretrained_config.normalization, mesh)


def with_fitting_batch(run: TrainedModel, images: int) -> TrainedModel:
    """Returns the model with evaluation batches no larger than the number of images needs."""
    devices = jax.device_count()
    needed = -(-images // devices) * devices
    data = replace(run.config.data, eval_batch_size=min(run.config.data.eval_batch_size, needed))
    return replace(run, config=replace(run.config, data=data))


def best_variables(
    checkpoints: Checkpoints, metadata: dict[str, Any], shapes: dict, phases: Sequence[Phase]
) -> dict:
    """Returns the variables of a checkpoint, or their moving averages if these scored higher.

    Args:
        checkpoints: of the run.
        metadata: of the checkpoint.
        shapes: the variables, or their shapes with shardings.
        phases: of the run.

    Returns:
        {params, batch_stats}.

    Raises:
        ValueError: the checkpoint is damaged, or its phase is not in the config.
    """
    ema = NO_EMA
    if uses_ema(metadata):
        phase = next((phase for phase in phases if phase.name == metadata["phase"]), None)
        if phase is None:
            raise ValueError(
                f"the checkpoint of step {metadata['step']} is from phase {metadata['phase']!r}, "
                "which the config of the run does not have; restore the config"
            )
        ema = ema_leaves(shapes, phase)
    return checkpoints.restore_variables(metadata["step"], shapes, ema)


def uses_ema(metadata: dict[str, Any]) -> bool:
    """Returns whether the moving averages (EMA) scored higher than the parameters themselves."""
    return metadata.get("weights") == EMA


def describe_checkpoint(metadata: dict[str, Any]) -> str:
    """Returns for example "checkpoint of step 120 (phase finetune), EMA of the parameters"."""
    weights = ", EMA of the parameters" if uses_ema(metadata) else ""
    return f"checkpoint of step {metadata['step']} (phase {metadata['phase']}){weights}"


def read_pretrained_config(metadata: dict[str, Any]) -> PretrainedConfig:
    """Returns the pretrained config of the weights that a checkpoint was trained from.

    Args:
        metadata: from `check_metadata`.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    return from_json(metadata["pretrained_config"])


def write_predictions(
    path: Path,
    filenames: tuple[str, ...] | list[str],
    probabilities,
    classes: tuple[str, ...],
) -> None:
    """Writes a CSV with the file name of each image and a column per class.

    Args:
        path: of the CSV.
        filenames: n names of images.
        probabilities: [n, c]; floats are written with six decimals, integers (0 or 1) as they are.
        classes: c names of classes.

    Raises:
        ValueError: the file cannot be written.
    """
    import pandas as pd  # imported late: takes half a second, and predict may write no file

    frame = pd.DataFrame(probabilities, columns=list(classes))
    # As objects, because a name may hold bytes that are not UTF-8.
    names = pd.Series(list(filenames), dtype=object)
    frame.insert(0, "filename", names, allow_duplicates=True)
    write_text(path, csv_text(frame, "%.6f"))
