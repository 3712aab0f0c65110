"""Trained models that were exported with a description, and are loaded without their workdir."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.config.serialization import from_dict
from mlcls_jax.evaluation.decision_rule import decision_rule_from_dict
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.models.weights.load import load_pretrained
from mlcls_jax.run.trained_model import TrainedModel, check_metadata, from_metadata
from mlcls_jax.system.console import one_line
from mlcls_jax.system.devices import make_mesh, replicate
from mlcls_jax.system.files import write_text

DESCRIPTION = "mlcls_jax.json"
# Fields of Data that decide how an image is read; the others say where the data of the run are.
_READING = ("bit_depth", "eval_batch_size", "max_pixels", "on_bad_image", "max_bad_fraction")


def write_description(run: TrainedModel, folder: Path) -> None:
    """Writes mlcls_jax.json: config and metadata, without the names of files and folders.

    Args:
        run: the trained run.
        folder: of its model.safetensors.
    """
    data = Data(**{name: getattr(run.config.data, name) for name in _READING})
    weights = run.config.model.weights
    model = dataclasses.replace(run.config.model, weights=weights if is_name(weights) else "")
    config = dataclasses.replace(run.config, data=data, model=model)
    metadata = {k: v for k, v in run.metadata.items() if k not in ("config", "decision_rule")}
    values = {
        "config": dataclasses.asdict(config),
        "metadata": metadata,
        "decision_rule": dataclasses.asdict(run.decision_rule),
    }
    write_text(folder / DESCRIPTION, json.dumps(values, indent=1) + "\n")


def load_exported(folder: Path, place: str) -> TrainedModel:
    """Loads a model from its model.safetensors and mlcls_jax.json.

    Args:
        folder: of both files.
        place: what to call it in messages.

    Raises:
        ValueError: a file is missing or damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(
            f"{place} has no {DESCRIPTION}, so it is no model that this trainer has pushed; to "
            f"fine-tune it, use --config.model.weights={place}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config: Config = from_dict(values["config"])
        validate(config)
        metadata: dict[str, Any] = check_metadata(values["metadata"], values["metadata"]["step"])
        rule = decision_rule_from_dict(values["decision_rule"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{place}: {DESCRIPTION} cannot be read ({one_line(error)})") from error
    pretrained = load_pretrained(folder, config.model.variant)
    classes = len(metadata["classes"])
    if pretrained.num_classes != classes or len(rule.thresholds) != classes:
        raise ValueError(f"{place}: model.safetensors and {DESCRIPTION} have other classes")
    mesh = make_mesh()
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), pretrained.variables)
    return TrainedModel(
        config=config,
        variables=replicate(variables, mesh),
        decision_rule=rule,
        **from_metadata(metadata, config.model, mesh),
    )
