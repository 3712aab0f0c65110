"""Cross-validation: the folds, what their runs share, how it continues, and the refit."""

import json
import signal

import jax
import numpy as np
import pandas as pd
import pytest
from batch_signals import send_at_batches

import mlcls_jax
from mlcls_jax import evaluate
from mlcls_jax.config import Augment, Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.data.readers.read_table import read_table
from mlcls_jax.data.stratification import draw_folds
from mlcls_jax.run.best_scores import read_best_evaluation
from mlcls_jax.run.checkpoint_integrity import check_step, fold_folders, saved_steps
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.train import train
from mlcls_jax.training import compile_ahead, feature_cache
from mlcls_jax.training.context import NO_EXTENSIONS, Ended
from mlcls_jax.training.folds import FoldRuns

FOLDS = 3


def make_config(photos, variant, folds=FOLDS, **data) -> Config:
    return Config(
        log_every=2,
        recipe="none",
        data=Data(
            csv=str(photos / "labels.csv"),
            images=str(photos),
            batch_size=8,
            eval_batch_size=8,
            folds=folds,
            oversample="balanced",
            oversample_threshold=0.9,  # all three classes are rare
            **data,
        ),
        augment=Augment(),
        model=Model(variant=variant, weights="", image_size=32),
        evaluation=Evaluation(min_positives_to_tune=1, train_sample=0),
        phases=[
            Phase("head", "1 epoch", [Group("head/.*", 1e-2)], cached_views=2),
            Phase("tail", "4 steps", [Group("(head|backbone/top)/.*", 1e-2)], ema=0.5),
        ],
    )


def final_params(workdir):
    return jax.tree.leaves(jax.device_get(load_trained_model(workdir, "latest").variables))


def files_of(workdir):
    """Returns the contents of the files of all folds."""
    names = ("eval_out_of_fold.json", "predictions_out_of_fold.csv", "folds.csv", "classes.txt")
    return {name: (workdir / name).read_text() for name in names}


@pytest.fixture
def whole(photos, tiny, tmp_path):
    """Returns the workdir of a finished cross-validation with a run on all images."""
    assert train(make_config(photos, tiny, refit=True), tmp_path / "whole") == 0
    return tmp_path / "whole"


@pytest.mark.slow
def test_folds_score_every_image_once_and_the_refit_keeps_their_thresholds(
    photos, whole, capsys, monkeypatch
):
    table = read_table(Data(), str(photos / "labels.csv"), str(photos))
    predictions = pd.read_csv(whole / "predictions_out_of_fold.csv")
    assert tuple(predictions["filename"]) == table.filenames
    result = json.loads((whole / "eval_out_of_fold.json").read_text())
    assert result["num_images"] == 40
    assert [fold["fold"] for fold in result["folds"]] == list(range(FOLDS))
    maps = [fold["values"]["mAP"] for fold in result["folds"]]
    assert result["fold_mean"]["mAP"] == pytest.approx(np.mean(maps))
    assert result["fold_deviation"]["mAP"] == pytest.approx(np.std(maps, ddof=1))
    assert (
        result["mAP_interval"]["low"] <= result["values"]["mAP"] <= result["mAP_interval"]["high"]
    )

    fold = draw_folds(table, FOLDS, 42)
    for number in range(FOLDS):  # each image by the run that did not train on it
        splits = pd.read_csv(whole / f"fold-{number}" / "splits.csv").set_index("filename")["split"]
        held_out = splits[splits == "val"].index
        assert set(held_out) == {table.filenames[i] for i in np.flatnonzero(fold == number)}
        own = read_best_evaluation(whole / f"fold-{number}", "held_out.npz")
        assert own is not None
        assert own.step == max(saved_steps(whole / f"fold-{number}"))
        assert set(own.filenames) == set(held_out)

    run = load_trained_model(whole, "best")
    assert dict(zip(run.classes, run.decision_rule.thresholds, strict=True)) == result["thresholds"]
    temperature = result["calibration"]["temperature"]
    assert list(run.decision_rule.temperatures) == list(temperature.values())
    assert run.decision_rule.tuned_on == "the out-of-fold predictions"
    probabilities = mlcls_jax.load(whole).predict([photos / "00.png"])
    assert probabilities.shape == (1, 3)
    assert evaluate.main(["--workdir", str(whole), "--split", "train"]) == 0
    assert "--split val" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"eval_out_of_fold\.json has the out-of-fold scores"):
        evaluate.main(["--workdir", str(whole), "--split", "val"])
    page = (whole / "report.html").read_text()
    assert "<h2>Folds</h2>" in page
    assert f"{result['fold_mean']['mAP']:.4f}" in page

    def fail(*_, **__):
        raise AssertionError("a finished run is not trained again")

    before = files_of(whole)
    monkeypatch.setattr(compile_ahead.CompileAhead, "_compile_step", fail)
    config = make_config(photos, run.config.model.variant, refit=True)
    assert train(config, whole) == 0
    assert files_of(whole) == before


@pytest.mark.slow
def test_stopped_in_a_fold_it_continues_to_the_same_result(
    photos, tiny, whole, tmp_path, monkeypatch
):
    config, parts = make_config(photos, tiny, refit=True), tmp_path / "parts"
    config.checkpoint.every_minutes = 1e-9
    stops = [(2, signal.SIGINT), (5, signal.SIGTERM), (11, signal.SIGINT)]
    send_at_batches(monkeypatch, stops)
    codes = [train(config, parts)]
    while not (parts / "checkpoints").exists() or len(codes) < 4:
        codes.append(train(config, parts))
    assert codes[:2] == [130, 143]
    assert codes[-1] == 0
    assert files_of(parts) == files_of(whole)
    for ours, theirs in zip(final_params(parts), final_params(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match=r"data\.folds: 3 -> 4"):
        train(Config(**{**vars_of(config), "data": with_folds(config.data, 4)}), parts)


@pytest.mark.slow
def test_recipe_best_says_what_it_sets_and_how_to_go_on(photos, tiny, tmp_path, capsys):
    config = make_config(photos, tiny, folds=0)
    assert train(Config(**{**vars_of(config), "recipe": "best"}), tmp_path / "best") == 0
    assert len(fold_folders(tmp_path / "best")) == 5 and saved_steps(tmp_path / "best")
    shown = " ".join(capsys.readouterr().out.split())
    assert "recipe best: augment.rand_augment=2, augment.magnitude=5.0" in shown
    assert "recipe best: data.folds=5, data.refit=True" in shown
    assert shown.count("recipe best") == 2  # not again for each fold
    assert f"predict --workdir {tmp_path / 'best'} IMAGE_OR_FOLDER" in shown


def vars_of(config):
    return {name: getattr(config, name) for name in config.__slots__}


def with_folds(data, folds):
    return Data(**{**{name: getattr(data, name) for name in data.__slots__}, "folds": folds})


def test_a_signal_in_the_last_evaluation_of_a_fold_leaves_the_other_folds(photos, tiny, tmp_path):
    trained = []

    def train_run(config, workdir, extensions):
        trained.append(workdir.name)
        return Ended(finished=True, signal=signal.SIGTERM)

    runs = FoldRuns(make_config(photos, tiny), tmp_path / "run", NO_EXTENSIONS, train_run)
    assert (runs.run_filled().code, trained) == (143, ["fold-0"])


@pytest.mark.slow
def test_images_are_read_once_for_the_features_of_all_folds(photos, tiny, tmp_path, monkeypatch):
    passes = []
    predict_batches = feature_cache.predict_batches

    def counted(predict, variables, paths, *rest):
        passes.append(len(paths))
        return predict_batches(predict, variables, paths, *rest)

    monkeypatch.setattr(feature_cache, "predict_batches", counted)
    config = make_config(photos, tiny, folds=2)
    config.phases = config.phases[:1]
    assert train(config, tmp_path / "run") == 0
    assert passes == [40]
    with pytest.raises(ValueError, match=r"holds 2 folds and no model of all images.*--refit"):
        check_step(tmp_path / "run" / "checkpoints", [], "best")


@pytest.mark.slow
def test_images_are_decoded_once_for_the_caches_of_all_folds(photos, tiny, tmp_path, capsys):
    whole = make_config(photos, tiny, 2, cache="memory", test_fraction=0.2)
    whole.phases = [Phase("tail", "2 steps", [Group("head/.*", 1e-2)])]
    other = make_config(photos, tiny, 2, test_fraction=0.2)
    other.phases = whole.phases
    for name, config in (("cached", whole), ("files", other)):
        assert train(config, tmp_path / name) == 0
    assert capsys.readouterr().out.count("kept in memory") in (0, 1, 2)
    results = [
        json.loads((tmp_path / name / "eval_out_of_fold.json").read_text())
        for name in ("cached", "files")
    ]
    assert results[0]["num_images"] == 32
    assert results[0]["values"] == pytest.approx(results[1]["values"], abs=1e-3)
