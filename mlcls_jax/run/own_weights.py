"""Weights of a run for a new one: model.weights names a workdir or one of its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

from mlcls_jax.config import Model
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_cells import read_csv
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.run.stored_config import check_same_network, find_run, read_config
from mlcls_jax.run.trained_model import TrainedModel, describe_checkpoint, load_trained_model
from mlcls_jax.run.workdir import SPLITS
from mlcls_jax.step.init import fresh_head
from mlcls_jax.step.network import NetworkSpec
from mlcls_jax.step.own_head import Head, describe_reuse, reused_head
from mlcls_jax.system.console import console, print_warning
from mlcls_jax.system.devices import replicate


@dataclass(frozen=True)
class OwnWeights:
    """The model of a run, from which a new run starts.

    Attributes:
        workdir: of the run.
        model: its model at a checkpoint, with the parameters or their moving averages, whichever
            scored higher, as in `evaluate`.
    """

    workdir: Path
    model: TrainedModel

    @property
    def pretrained_config(self) -> PretrainedConfig:
        """Convention and normalisation of the weights."""
        return self.model.pretrained_config

    def variables(
        self, network: NetworkSpec, classes: tuple[str, ...], shapes: dict, seed: int, bias: dict
    ) -> dict:
        """Returns the variables of the new run on every device, and prints what they keep.

        Args:
            network: settings of the new network.
            classes: of the new run, in order.
            shapes: shapes of its variables.
            seed: of the random numbers of new outputs.
            bias: bias of new outputs, from `init.fresh_bias`.

        Raises:
            ValueError: the network is the user's own and has other classes.
        """
        text = f"Weights of {self.workdir}, {describe_checkpoint(self.model.metadata)}"
        if network.custom:  # the layout of its head is not known
            if classes != self.model.classes:
                raise ValueError(
                    f"config: model.weights is the run {self.workdir} with other classes; a custom "
                    "network starts from a run with the same classes in the same order"
                )
            console.print(f"{text}: all of it.")
            return self.model.variables
        params = self.model.variables["params"]
        source = Head(self.model.classes, self.model.network.decoder)
        target = Head(classes, network.decoder)
        fresh = jax.device_get(fresh_head(network, shapes, seed, bias))
        head, kept = reused_head(jax.device_get(params["head"]), source, fresh, target)
        console.print(f"{text}: {describe_reuse(source, target, kept)}.")
        params = {"backbone": params["backbone"], "head": replicate(head, self.model.mesh)}
        return {"params": params, "batch_stats": self.model.variables["batch_stats"]}


def read_own_weights(model: Model) -> OwnWeights | None:
    """Returns the model of the run that model.weights names; None if it names no run.

    Args:
        model: the section of the new run's config.

    Raises:
        ValueError: the run has another network, or its checkpoint cannot be read.
    """
    found = find_run(model.weights)
    if found is None:
        return None
    workdir, which = found
    check_same_network(workdir, read_config(workdir).model, model)
    return OwnWeights(workdir, load_trained_model(workdir, which))


def warn_of_seen_images(weights: str, splits: Mapping[str, LabelTable]) -> None:
    """Warns of validation and test images that were training images of the run in model.weights.

    Args:
        weights: the field model.weights.
        splits: label table per split of the new run.
    """
    found = find_run(weights)
    if found is None:
        return
    try:
        before = read_csv(found[0] / SPLITS).columns
        rows = zip(before["filename"].texts, before["split"].texts, strict=True)
        trained = {name for name, split in rows if split == "train"}
    except (OSError, ValueError, KeyError):
        return  # a copy of the run may lack its splits
    for split in ("val", "test"):
        names = splits[split].filenames if split in splits else ()
        if seen := sum(name in trained for name in names):
            print_warning(
                f"{seen} of {len(names)} {split} images have the names of training images of "
                f"{found[0]}; if they are the same images, their scores are too good: name the "
                "splits in a column `split` of the CSV"
            )
