"""Workdirs of made-up runs as training leaves them, for the report."""

import json

import numpy as np

from mlcls_jax.config import Config, Data
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.evaluation.decision_rule import DecisionRule, ThresholdCriterion
from mlcls_jax.run.best_scores import BestEvaluation
from mlcls_jax.run.workdir import prepare

HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{$ & co",
    "猫<!--",
)


def a_table(folder, names, images, prefix) -> LabelTable:
    rng = np.random.default_rng(len(prefix))
    labels = (rng.random((images, len(names))) < 0.4).astype(np.int8)
    files = tuple(f"{prefix}<b>'{i}\".png" for i in range(images))
    return LabelTable(folder, files, labels, names)


def a_record(step: int, value: float, phase: str = "head", sampled: bool = True) -> dict:
    record = {
        "step": step,
        "epoch": step / 10,
        "phase": phase,
        "loss_name": "bce",
        "train_loss": 0.3,
        "val": {"mAP": value, "loss": 0.4, "CF1": 0.5},
        "base_rate": {"mAP": 0.3, "loss": 0.6, "CF1": 0.1},
        "images_per_second": 12.5,
        "seconds": 3.0,
    }
    if sampled:
        sample = {"mAP": value, "loss": 0.3, "val_mAP": value, "classes": 2, "images": 9}
        record |= {"train_sample": sample, "timing": {"steps": 3.0, "evaluation": 1.0}}
    return record


def a_run(folder, names=HOSTILE, sampled=True, val=30):
    """A workdir as training leaves it, without checkpoints, and the splits."""
    workdir = folder / "run"
    splits = {"train": a_table(folder, names, 60, "t"), "val": a_table(folder, names, val, "v")}
    prepare(workdir, Config(data=Data(csv="<i>labels.csv", images=str(folder))), names)
    made = [a_record(10, 0.4, "head", sampled), a_record(20, 0.6, "finetune", sampled)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    return workdir, splits


def a_best(table: LabelTable, step: int = 20) -> BestEvaluation:
    logits = np.random.default_rng(step).normal(size=table.labels.shape) + 2 * table.labels - 1
    count = len(table.classes)
    decision_rule = DecisionRule(
        ThresholdCriterion("f1", 0.9, 10, "none"), (0.5,) * count, (1.0,) * count
    )
    groups = {"head": [{"pattern": "<u>head/.*", "parameters": 7}]}
    groups["head"][0] |= {"learning_rate": 1e-2, "weight_decay": 0.0}
    return BestEvaluation(
        step, "raw", table.filenames, logits.astype(np.float32), decision_rule, "8 x CPU", groups
    )
