"""Ensembles: one prediction from the networks of all folds of a run.

The mean of their probabilities has a higher mAP and a lower loss than one network; docs/results.md
has the measurement.  An image is decoded and transferred once for all networks.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.run.best_scores import read_best_evaluation
from mlcls_jax.run.checkpoint_integrity import fold_folders
from mlcls_jax.run.stored_config import read_config
from mlcls_jax.run.trained_model import TrainedModel, load_trained_model
from mlcls_jax.run.tta import of_mean_probability, with_views


def load_ensemble(workdir: Path, tta: str, accept_changed_data: bool = False) -> TrainedModel:
    """Returns the networks of all folds as one model, whose probabilities are their mean.

    Each network is that of the last checkpoint, because the thresholds and temperatures were tuned
    on the out-of-fold predictions of these.

    Args:
        workdir: of a finished run with folds; see `check_ensemble`.
        tta: test-time augmentation of each network; see `with_views`.
        accept_changed_data: see `load_trained_model`.

    Raises:
        ValueError: a fold cannot be loaded, or has other classes or weights than the first one.
    """
    folders = fold_folders(workdir)
    members = [load_trained_model(folder, "latest", accept_changed_data) for folder in folders]
    first = with_views(members[0], tta)
    for folder, member in zip(folders, members, strict=True):
        if (member.classes, member.network, member.pretrained_config) != (
            members[0].classes,
            members[0].network,
            members[0].pretrained_config,
        ):
            raise ValueError(f"{folder} has another network or other classes than {folders[0]}")
    rule = _rule(workdir)
    data = dataclasses.replace(first.config.data, fold=read_config(workdir).data.fold)
    return dataclasses.replace(
        first,
        config=dataclasses.replace(first.config, data=data),
        metadata=first.metadata | {"ensemble": len(members)},
        variables={"members": [member.variables for member in members]},
        decision_rule=rule,
        predict=_mean_of(first.predict, rule.temperatures),
    )


def _rule(workdir: Path) -> DecisionRule:
    """Returns the thresholds and temperatures of the out-of-fold predictions."""
    scores = read_best_evaluation(workdir)
    if scores is None:
        raise ValueError(f"{workdir} has no scores.npz; run the same train command again")
    return scores.decision_rule


def _mean_of(predict: Any, temperatures: tuple[float, ...]) -> Any:
    """Returns (variables, images) -> the logits whose probabilities are the mean of the networks'.

    Args:
        predict: (variables of one network, images) -> its logits.
        temperatures: [class]; the logits of each network are divided by them, and those of the mean
            are multiplied by them, so that the decision rule divides once.
    """

    @jax.jit
    def combined(logits: list[jax.Array]) -> jax.Array:
        scale = jnp.asarray(temperatures, jnp.float32)
        return of_mean_probability(jnp.stack(logits) / scale) * scale

    def mean(variables: dict, images: jax.Array) -> jax.Array:
        return combined([predict(member, images) for member in variables["members"]])

    return mean
