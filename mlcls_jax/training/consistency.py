"""Whether all processes of a run have the same config, packages, data, weights and workdir.

Each would train on its own all the same, and the mean of their gradients would be of nothing.  What
may differ is where the files are on a machine (PATHS in config.py): what is in them is compared.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from mlcls_jax import __version__
from mlcls_jax.config import Config
from mlcls_jax.config.serialization import flatten_fields, per_machine
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.run.checkpoints import saved_steps
from mlcls_jax.system import distributed

# What decides the numbers: programs, checkpoints and pixels.
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
    """Returns when all processes have been here with the same config and packages.

    Raises:
        ValueError: on every process, with the fields and packages that differ.
    """
    if distributed.is_multiprocess():
        _compare("config", config_facts(config))


def check_data(splits: dict[str, LabelTable], weights: str, workdir: Path) -> None:
    """Returns when all processes have been here with the same data, weights and checkpoints.

    Raises:
        ValueError: on every process, with what differs.
    """
    if not distributed.is_multiprocess():
        return
    facts = data_facts(splits)
    steps = saved_steps(workdir)
    facts[f"checkpoints in --workdir {workdir}, one folder for all"] = str(steps)
    if not steps and weights and not is_name(weights):  # one with a name has a checksum of its own
        facts["contents of model.weights"] = _file_hash(Path(weights))
    _compare("data", facts)


def config_facts(config: Config) -> dict[str, str]:
    """Field and package, and what they are; without what may differ between machines."""
    free = per_machine(config)
    fields = flatten_fields(dataclasses.asdict(config)).items()
    facts = {path: repr(value) for path, value in fields if path not in free}
    packages = {name: version(name) for name in PACKAGES}
    return facts | {"mlcls_jax": __version__} | packages


def data_facts(splits: dict[str, LabelTable]) -> dict[str, str]:
    """Classes, file names and labels of each split, as hashes; file names without their folder."""
    facts = {"classes": _hash(splits["train"].classes)}
    for split, table in splits.items():
        facts[f"file names of {split} (data.csv)"] = _hash(table.filenames)
        shape = "x".join(map(str, table.labels.shape))
        labels = hashlib.sha256(table.labels.tobytes()).hexdigest()[:12]
        facts[f"labels of {split} (data.csv)"] = f"{shape} {labels}"
    return facts


def disagreement(facts: list[dict[str, str]]) -> str:
    """What differs between processes, and from which process on: one line, or "" for nothing.

    Args:
        facts: of each process.  One that a process does not have is absent there.
    """
    names = dict.fromkeys(name for own in facts for name in own)
    lines = []
    for name in names:
        values = [own.get(name, "absent") for own in facts]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            lines.append(f"{name}: {values[0]} in process 0, {values[other]} in process {other}")
    return "; ".join(lines)


def _compare(topic: str, facts: dict[str, str]) -> None:
    said = [json.loads(text) for text in distributed.exchange(topic, json.dumps(facts))]
    if differing := disagreement(said):
        raise ValueError(
            f"the processes of a run must have the same {topic}, but they differ ({differing}); "
            "make them equal on all machines and start all again"
        )


def _hash(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def _file_hash(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        return f"unreadable: {error}"
