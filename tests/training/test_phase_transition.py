"""Phases that end early and pass on their best checkpoint, with scripted scores and stops."""

import dataclasses
import json
import os
import signal
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.run.best_scores import read_best_evaluation
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.train import train
from mlcls_jax.training import loop, lr_range, phase_inputs, validation
from mlcls_jax.training.early_stopping import EarlyStopping

# mAP of the parameters and of their EMA at the evaluations of the first phase, which is best at
# step 4, and of the second phase, which is never better.
FIRST = [(0.30, 0.20), (0.40, 0.50), (0.45, 0.10), (0.20, 0.49)]
SECOND = [(0.10,), (0.20,)]


def make_config(photos, variant) -> Config:
    head = [Group("head/.*", 1e-2)]
    return Config(
        log_every=1,
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        model=Model(variant=variant, weights="", image_size=32),
        evaluation=Evaluation(every="2 steps", train_sample=0),
        phases=[
            Phase("first", "20 steps", head, cached_views=1, ema=0.7, patience=2),
            Phase("second", "4 steps", head, cached_views=1),
        ],
    )


def test_patience_counts_evaluations_since_the_best():
    early_stopping, counts = EarlyStopping(), []
    for value in (0.3, float("nan"), 0.3, 0.4, 0.1):
        early_stopping = early_stopping.after(value)
        counts.append(early_stopping.without_gain)
    assert counts == [0, 1, 2, 0, 1] and early_stopping.best == 0.4
    assert [early_stopping.is_over(patience) for patience in (0, 1, 2)] == [False, True, False]
    assert EarlyStopping().after(float("nan")) == EarlyStopping(None, 1)
    assert (
        EarlyStopping(**json.loads(json.dumps(dataclasses.asdict(early_stopping))))
        == early_stopping
    )


def test_patience_with_the_loss_waits_for_a_lower_one():
    early_stopping, counts = EarlyStopping(), []
    for value in (0.5, 0.6, float("nan"), 0.4):
        early_stopping = early_stopping.after(value, "loss")
        counts.append(early_stopping.without_gain)
    assert counts == [0, 1, 2, 0] and early_stopping.best == 0.4


@pytest.fixture
def scripted(monkeypatch):
    """Returns a function that starts the scripted scores from the beginning."""
    scores, metric, model_scores = [], ["mAP"], validation.model_scores

    def scripted_scores(*args):
        real, value = model_scores(*args), scores.pop(0)
        # By the loss, the same evaluations are best; by mAP, all are the same.
        own = {"mAP": value} if metric[0] == "mAP" else {"mAP": 0.5, "loss": 1 - value}
        return dataclasses.replace(real, values=real.values | own)

    def begin(name="mAP"):
        metric[0] = name
        scores[:] = [value for pair in FIRST + SECOND for value in pair]
        return scores

    monkeypatch.setattr(validation, "model_scores", scripted_scores)
    return begin


def records(workdir):
    """Returns the records of metrics.jsonl without the fields that depend on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clock = ("images_per_second", "seconds", "timing")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def variables(workdir, which):
    return jax.tree.leaves(jax.device_get(load_trained_model(workdir, which).variables))


def assert_equal(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_an_early_end_passes_on_the_best_checkpoint_and_survives_stops(
    photos, tiny, tmp_path, monkeypatch, scripted, capsys
):
    config, whole, parts = make_config(photos, tiny), tmp_path / "whole", tmp_path / "parts"
    begun = {}
    make_phase_inputs = loop.make_phase_inputs

    def recorded(context, phase_plan, state, startup):
        begun[phase_plan.phase.name] = int(state.step), jax.device_get(state.params["head"])
        return make_phase_inputs(context, phase_plan, state, startup)

    monkeypatch.setattr(loop, "make_phase_inputs", recorded)
    remaining = scripted()
    assert train(config, whole) == 0 and not remaining
    check_whole(whole, begun, capsys.readouterr().out)

    # Ctrl-C inside the first phase between evaluations, and at its last step.
    stops, to_devices, count = iter([3, 8]), phase_inputs.to_devices, [0, 0]
    count[1] = next(stops)

    def to_devices_with_stops(*args):
        for chunk in to_devices(*args):
            count[0] += 1
            if count[0] == count[1]:
                count[1] = next(stops, -1)
                os.kill(os.getpid(), signal.SIGINT)
            yield chunk

    monkeypatch.setattr(phase_inputs, "to_devices", to_devices_with_stops)
    remaining, codes = scripted(), []
    while 0 not in codes:
        codes.append(train(config, parts))
    assert codes == [130, 130, 0] and not remaining
    assert records(parts) == records(whole)
    assert_equal(variables(parts, "latest"), variables(whole, "latest"))
    assert_equal(variables(parts, "best"), variables(whole, "best"))


@pytest.mark.slow
def test_the_loss_can_decide_the_best_evaluation(photos, tiny, tmp_path, scripted, capsys):
    config, workdir = make_config(photos, tiny), tmp_path / "run"
    config.evaluation.best = "loss"
    remaining = scripted("loss")
    assert train(config, workdir) == 0 and not remaining
    output = " ".join(capsys.readouterr().out.split())
    assert [record["weights"] for record in records(workdir)[:4]] == ["raw", "ema", "raw", "ema"]
    assert "2 evaluations in a row were no better than val loss 0.5000" in output
    assert "second: from the checkpoint of step 4 (phase first), EMA of the parameters" in output
    assert "with the EMA: loss 0.6000 of the parameters, 0.5000 of their EMA" in output
    assert "val loss" in output and load_trained_model(workdir, "best").metadata["step"] == 4
    scored = read_best_evaluation(workdir)
    assert scored is not None and scored.step == 4
    with pytest.raises(ValueError, match=r"evaluation\.best: 'loss' -> 'mAP'"):
        config.evaluation.best = "mAP"
        train(config, workdir)


def check_whole(workdir, begun, output):
    first, second = records(workdir)[:4], records(workdir)[4:]
    assert [record["step"] for record in first] == [2, 4, 6, 8]  # and not 20
    assert [record["step"] for record in second] == [22, 24]  # as the plan has it
    assert [record["weights"] for record in first] == ["raw", "ema", "raw", "ema"]
    for record, (raw, ema) in zip(first, FIRST, strict=True):
        assert (record["val_raw"]["mAP"], record["val_ema"]["mAP"]) == (raw, ema)
        assert record["val"] == record[f"val_{record['weights']}"]
    assert not any("weights" in record or "val_ema" in record for record in second)
    assert (
        "first: ended after 8 of 20 steps, because 2 evaluations in a row were no better" in output
    )
    assert "second: from the checkpoint of step 4 (phase first), EMA of the parameters" in output
    assert "scored with the EMA: mAP 0.4000 of the parameters, 0.5000 of their EMA" in output

    step, head = begun["second"]
    best = load_trained_model(workdir, "best")
    assert step == 20 and best.metadata["step"] == 4 and best.metadata["weights"] == "ema"
    assert_equal(
        jax.tree.leaves(head), jax.tree.leaves(jax.device_get(best.variables["params"]["head"]))
    )
    raw = Checkpoints(workdir, read_only=True).restore_variables(4, best.variables)
    kernels = [np.asarray(tree["params"]["head"]["kernel"]) for tree in (best.variables, raw)]
    assert not np.array_equal(kernels[0], kernels[1])
    check_range_test_from(workdir, best)


def check_range_test_from(workdir, best):
    """A range test starts from the end of the phase before, and changes nothing in the folder."""
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    train_split = SimpleNamespace(classes=best.classes)
    inputs = SimpleNamespace(
        config=best.config,
        pretrained_config=best.pretrained_config,
        splits={"train": train_split},
    )
    context: Any = SimpleNamespace(inputs=inputs)
    first, second = best.config.phases
    previous: Any = SimpleNamespace(phase=second, stop=24)
    begun = lr_range._restored(context, previous, best.variables, workdir)
    assert begun is not None
    assert_equal(jax.tree.leaves(jax.device_get(begun)), variables(workdir, "latest"))
    stopped_early: Any = SimpleNamespace(phase=first, stop=24)
    assert first.patience and not lr_range._restored(context, stopped_early, {}, workdir)
    train_split.classes = ("cat", *best.classes[1:])
    with pytest.raises(ValueError, match="has other phases, other pretrained weights or other"):
        lr_range._restored(context, previous, best.variables, workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
