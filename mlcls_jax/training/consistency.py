"""Checks that all processes of a run have the same config, packages, data, weights and workdir.

Without this check, each process would train on its own data or settings, and averaging their
gradients would be meaningless. Paths may differ between machines (see `per_machine`); the contents
of the files are compared instead.
"""

import dataclasses
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from mlcls_jax import __version__
from mlcls_jax.config import Config
from mlcls_jax.config.serialization import flatten_fields, per_machine
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.run.checkpoint_integrity import FOLDER, saved_steps
from mlcls_jax.run.fingerprints import digest_of_labels, digest_of_names
from mlcls_jax.run.stored_config import find_run
from mlcls_jax.system import distributed
from mlcls_jax.system.bucket import address_of
from mlcls_jax.system.files import CHECKSUMS

# Packages that affect results: compiled programs, checkpoints and decoded pixels.
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
)


def check_config(config: Config) -> None:
    """Waits for all processes and checks that their configs and packages agree.

    Raises:
        ValueError: they differ; raised in every process, with the fields and packages.
    """
    if distributed.is_multiprocess():
        _compare("config", config_facts(config))


def check_data(splits: dict[str, LabelTable], weights: str, workdir: Path) -> None:
    """Waits for all processes and checks that their data, weights and checkpoints agree.

    Args:
        splits: label table per split.
        weights: model.weights of the config.
        workdir: of the run.

    Raises:
        ValueError: they differ; raised in every process, with the differences.
    """
    if not distributed.is_multiprocess():
        return
    facts = data_facts(splits)
    steps = saved_steps(workdir)
    facts[f"checkpoints in --workdir {address_of(workdir)}, one folder for all"] = str(steps)
    if not steps and weights and not is_name(weights):  # named weights have a known checksum
        facts["contents of model.weights"] = weights_hash(weights)
    if is_name(weights) and "@" in weights:
        facts["commit of model.weights"] = weights
    _compare("data", facts)


def config_facts(config: Config) -> dict[str, str]:
    """Returns the value of each field that must agree, and the version of each package."""
    free = per_machine(config.model.weights)
    fields = flatten_fields(dataclasses.asdict(config)).items()
    facts = {path: repr(value) for path, value in fields if path not in free}
    packages = {name: version(name) for name in PACKAGES}
    return facts | {"mlcls_jax": __version__} | packages


def data_facts(splits: dict[str, LabelTable]) -> dict[str, str]:
    """Returns hashes of the classes, and of the file names and labels of each split.

    File names are relative, so the folder of the images may differ.
    """
    facts = {"classes": digest_of_names(splits["train"].classes)}
    for split, table in splits.items():
        facts[f"file names of {split} (data.csv)"] = digest_of_names(table.filenames)
        shape = "x".join(map(str, table.labels.shape))
        labels = digest_of_labels(table.train_labels)
        facts[f"labels of {split} (data.csv)"] = f"{shape} {labels}"
    return facts


def disagreement(facts: list[dict[str, str]]) -> str:
    """Returns one line with the facts that differ between processes; "" if they agree.

    Args:
        facts: per process, the value of each fact.

    >>> disagreement([{"jax": "0.9", "seed": "1"}, {"jax": "0.9"}])
    'seed: 1 in process 0, absent in process 1'
    """
    names = dict.fromkeys(name for process_facts in facts for name in process_facts)
    differences = []
    for name in names:
        values = [process_facts.get(name, "absent") for process_facts in facts]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            differences.append(
                f"{name}: {values[0]} in process 0, {values[other]} in process {other}"
            )
    return "; ".join(differences)


def _compare(topic: str, facts: dict[str, str]) -> None:
    """Raises ValueError in every process if the facts of the processes differ."""
    gathered = [json.loads(text) for text in distributed.exchange(topic, json.dumps(facts))]
    if differences := disagreement(gathered):
        raise ValueError(
            f"the processes of a run must have the same {topic}, but they differ ({differences}); "
            "make them equal on all machines and restart all processes"
        )


def weights_hash(weights: str) -> str:
    """Returns a hash of a file of weights, or of the checkpoints of a run; or why there is none.

    Args:
        weights: the field model.weights, a path.
    """
    try:
        if run := find_run(weights):
            folders = [run[0] / FOLDER / str(step) for step in saved_steps(run[0])]
            lists = ((folder / CHECKSUMS).read_text(encoding="utf-8") for folder in folders)
            return digest_of_names(lists)
        with open(weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        return f"unreadable: {error}"
