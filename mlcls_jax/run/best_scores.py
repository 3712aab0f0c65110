"""The best evaluation of a run, kept in scores.npz for the report, and others in the same form."""

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.evaluation.decision_rule import DecisionRule, decision_rule_from_dict
from mlcls_jax.run.workdir import SCORES
from mlcls_jax.system.files import write_bytes


@dataclass(frozen=True, eq=False)
class BestEvaluation:
    """The best evaluation of the validation images.

    Attributes:
        step: training step of the evaluation.
        weights: RAW or EMA, whichever scored better.
        filenames: file names of the images.
        logits: float32 [image, class].
        decision_rule: thresholds and temperatures tuned on these images.
        devices: the devices of the run, as text.
        groups: rows of the table of parameter groups per phase, with the fields of GroupRow.
    """

    step: int
    weights: str
    filenames: tuple[str, ...]
    logits: np.ndarray
    decision_rule: DecisionRule
    devices: str
    groups: dict[str, list[dict[str, Any]]]


def write_best_evaluation(workdir: Path, best: BestEvaluation, name: str = SCORES) -> None:
    """Writes scores.npz, replacing that of an earlier evaluation.

    Args:
        workdir: of the run.
        best: the evaluation.
        name: another name for the file.

    Raises:
        ValueError: the file cannot be written.
    """
    about = {
        name: getattr(best, name) for name in ("step", "weights", "filenames", "devices", "groups")
    }
    about["decision_rule"] = dataclasses.asdict(best.decision_rule)
    text = json.dumps(about).encode()
    file = io.BytesIO()
    np.savez(file, about=np.frombuffer(text, np.uint8), logits=best.logits)
    write_bytes(workdir / name, file.getvalue())


def read_best_evaluation(workdir: Path, name: str = SCORES) -> BestEvaluation | None:
    """Returns the best evaluation, or None without scores.npz.

    Args:
        workdir: of the run.
        name: another name of the file.

    Raises:
        ValueError: the file cannot be read.
    """
    path = workdir / name
    if not path.exists():
        return None
    try:
        # From bytes, as NumPy leaves a file open that it cannot read.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about, logits = json.loads(arrays["about"].tobytes()), arrays["logits"]
        about["filenames"] = tuple(about["filenames"])
        about["decision_rule"] = decision_rule_from_dict(about["decision_rule"])
        return BestEvaluation(logits=logits, **about)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it") from error
