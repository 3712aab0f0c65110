"""scores.npz in the workdir: a run's best evaluation, which the report shows."""

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.evaluation.decision_rule import decision_rule_from_dict as decisions_from_dict
from mlcls_jax.run.workdir import SCORES
from mlcls_jax.system.files import write_bytes


@dataclass(frozen=True, eq=False)
class BestEvaluation:
    """An evaluation of the validation images.

    step: after which it was.
    weights: RAW or EMA, whichever was better.
    filenames: of the images.
    logits: float32 [image, class].
    decision_rule: tuned on them.
    devices: that the run trains on, for a person.
    groups: rows of the table of parameter groups by phase, with the fields of GroupRow.
    """

    step: int
    weights: str
    filenames: tuple[str, ...]
    logits: np.ndarray
    decision_rule: DecisionRule
    devices: str
    groups: dict[str, list[dict[str, Any]]]


def write_best_evaluation(workdir: Path, kept: BestEvaluation) -> None:
    """Replaces the scores of an earlier evaluation; ValueError where that fails."""
    about = {
        name: getattr(kept, name) for name in ("step", "weights", "filenames", "devices", "groups")
    }
    about["decision_rule"] = dataclasses.asdict(kept.decision_rule)
    text = json.dumps(about).encode()
    file = io.BytesIO()
    np.savez(file, about=np.frombuffer(text, np.uint8), logits=kept.logits)
    write_bytes(workdir / SCORES, file.getvalue())


def read_best_evaluation(workdir: Path) -> BestEvaluation | None:
    """The scores of the best evaluation; None of a run that has kept none.

    Raises:
        ValueError: scores.npz cannot be read.
    """
    path = workdir / SCORES
    if not path.exists():
        return None
    try:
        # Of the bytes: NumPy leaves a file open that it cannot read.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about, logits = json.loads(arrays["about"].tobytes()), arrays["logits"]
        about["filenames"] = tuple(about["filenames"])
        about["decision_rule"] = decisions_from_dict(about["decision_rule"])
        return BestEvaluation(logits=logits, **about)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it") from error
