"""Training end to end on generated images: train, stop, continue, evaluate, predict."""

import json
import signal

import jax
import numpy as np
import pandas as pd
import pytest
from batch_signals import send_at_batches

from mlcls_jax import evaluate, predict
from mlcls_jax.config import Augment, Config, Data, Group, Model, Phase
from mlcls_jax.report import __main__ as report
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.train import train
from mlcls_jax.training.compile_ahead import CompileAhead


def make_config(photos, variant, learning_rate=1e-2) -> Config:
    return Config(
        log_every=3,
        data=Data(
            csv=str(photos / "labels.csv"),
            images=str(photos),
            batch_size=8,
            eval_batch_size=8,
        ),
        augment=Augment(train_resize="random_crop", rand_augment=1),
        model=Model(variant=variant, weights="", image_size=32),
        phases=[
            Phase("head", "1 epoch", [Group("head/.*", learning_rate)]),
            Phase("tail", "2 epochs", [Group("(head|backbone/top)/.*", 1e-2, 1e-2)]),
        ],
    )


def records(workdir):
    """Returns the records of metrics.jsonl without the fields that depend on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clock = ("images_per_second", "seconds", "timing")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def final_params(workdir):
    return jax.device_get(load_trained_model(workdir, "latest").variables)


@pytest.mark.slow
def test_the_recipe_is_stored_and_the_same_command_continues(photos, tiny, tmp_path):
    config = make_config(photos, tiny)
    config.augment.rand_augment = None
    assert train(config, tmp_path) == 0
    stored = json.loads((tmp_path / "config.json").read_text())["augment"]
    assert (stored["rand_augment"], stored["magnitude"]) == (2, 5.0)
    assert config.augment.rand_augment is None
    before = records(tmp_path)
    assert train(config, tmp_path) == 0  # finished: nothing more to do, and not another config
    assert records(tmp_path) == before


def test_a_stopped_run_continues_to_the_same_result(photos, tiny, tmp_path, monkeypatch):
    config, whole, parts = make_config(photos, tiny), tmp_path / "whole", tmp_path / "parts"
    config.checkpoint.every_minutes = 1e-9  # saves at every third step, unless an evaluation saves
    compiled = []
    compile_step = CompileAhead._compile_step
    monkeypatch.setattr(
        CompileAhead, "_compile_step", lambda *args: compiled.append(args) or compile_step(*args)
    )
    assert train(config, whole) == 0
    assert len(compiled) == 2  # once a phase

    # It is stopped inside an epoch, first by Ctrl-C and then by SIGUSR1, at these batches.
    send_at_batches(monkeypatch, [(2, signal.SIGINT), (6, signal.SIGUSR1)])
    codes = [train(config, parts) for _ in range(3)]
    assert codes == [130, 138, 0]
    assert records(parts) == records(whole)
    for ours, theirs in zip(
        jax.tree.leaves(final_params(parts)), jax.tree.leaves(final_params(whole)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)

    assert train(config, parts) == 0  # the run has already finished
    assert records(parts) == records(whole)
    config.data.batch_size = 16
    with pytest.raises(ValueError, match=r"data\.batch_size: 8 -> 16"):
        train(config, parts)

    check_evaluate_and_predict(whole, photos, tmp_path)


def check_evaluate_and_predict(workdir, photos, tmp_path):
    assert report.main(["--workdir", str(workdir), "--explain"]) == 0
    page = (workdir / "report.html").read_text(encoding="utf-8")
    shown = page.count("<img src=")
    assert shown and page.count('alt="map of the evidence"') == shown / 2
    assert evaluate.main(["--workdir", str(workdir), "--split", "val"]) == 0
    best = max(records(workdir), key=lambda record: record["val"]["mAP"])
    result = json.loads((workdir / "eval_val.json").read_text())
    assert result["values"]["mAP"] == pytest.approx(best["val"]["mAP"], abs=1e-6)
    base_rate = result["base_rate"].items()  # with further metrics
    assert all(record["base_rate"].items() <= base_rate for record in records(workdir))
    splits = pd.read_csv(workdir / "splits.csv", index_col="filename")["split"]
    written = pd.read_csv(workdir / "predictions_val.csv", index_col="filename")
    assert list(written.index) == list(splits.index[splits == "val"])
    assert list(written.columns) == (workdir / "classes.txt").read_text().splitlines()

    assert result["tuned_for"] == "f1" and result["cross_fitted"]
    assert result["mAP_interval"]["low"] <= result["values"]["mAP"]
    tuned = load_trained_model(workdir, "best").decision_rule
    assert list(result["thresholds"].values()) == list(tuned.thresholds)

    out, names = tmp_path / "predictions.csv", tmp_path / "labels.csv"
    outputs = ["--csv", str(out), "--labels", str(names)]
    assert predict.main(["--workdir", str(workdir), str(photos), *outputs]) == 0
    predicted = pd.read_csv(out, index_col="filename")
    assert list(predicted.index) == sorted(path.name for path in photos.glob("*.png"))
    # Batches of another size give the same numbers: padding and other images have no influence.
    np.testing.assert_allclose(predicted.loc[written.index], written, atol=2e-6)
    decided, values = pd.read_csv(names, index_col="filename"), predicted.to_numpy()
    assert list(decided.columns) == list(predicted.columns)
    clear = np.abs(values - tuned.thresholds) > 1e-5  # the CSV has six decimals
    np.testing.assert_array_equal(decided.to_numpy()[clear], (values >= tuned.thresholds)[clear])

    arguments = ["--workdir", str(workdir), "--tta", "crops"]
    assert evaluate.main([*arguments, "--split", "val"]) == 0
    result = json.loads((workdir / "eval_val.json").read_text())
    assert (result["tta"], result["views"]) == ("crops", 10)
    averaged = pd.read_csv(workdir / "predictions_val.csv", index_col="filename")
    assert np.abs(averaged - written).to_numpy().max() > 1e-4
    ranked = ["--rank", "uncertain", "--label-studio", str(tmp_path / "tasks.json")]
    assert predict.main([*arguments, str(photos), "--csv", str(out), *ranked]) == 0
    predicted = pd.read_csv(out, index_col="filename")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["filename"] for task in tasks] == list(predicted.index)
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert scores == sorted(scores) and 0 <= scores[0] < scores[-1] <= 1
    np.testing.assert_allclose(predicted.loc[written.index], averaged, atol=2e-6)
    check_images_without_labels(workdir, photos, predicted.sort_index(), tmp_path)
    check_tuning_again(workdir, tuned)


def check_images_without_labels(workdir, photos, predicted, tmp_path):
    """A folder and a CSV of file names give the same predictions, and no metrics."""
    names = tmp_path / "some.csv"
    names.write_text("filename\n07.png\n03.png\n")
    run, images = ["--workdir", str(workdir), "--tta", "crops"], ["--images", str(photos)]
    assert evaluate.main([*run, *images]) == 0
    assert evaluate.main([*run, *images, "--csv", str(names)]) == 0
    out = tmp_path / "named.csv"
    assert predict.main([*run, *images, str(names), "--csv", str(out)]) == 0
    whole = pd.read_csv(workdir / f"predictions_images_{photos.name}.csv", index_col="filename")
    np.testing.assert_allclose(whole, predicted, atol=2e-6)
    for file in (workdir / "predictions_csv_some.csv", out):
        some = pd.read_csv(file, index_col="filename")
        assert list(some.index) == ["07.png", "03.png"]
        np.testing.assert_allclose(some, predicted.loc[some.index], atol=2e-6)
    assert {file.name for file in workdir.glob("eval_*")} == {"eval_val.json"}
    with pytest.raises(ValueError, match="--csv needs --images"):
        evaluate.main([*run, "--csv", str(names)])
    with pytest.raises(ValueError, match="has its own images; leave --images out"):
        evaluate.main([*run, *images, "--csv", "x", "--source", "voc"])


def check_tuning_again(workdir, tuned):
    """Tuning again writes decision_rule.json and does not change the checkpoint."""
    tuning = [
        "--threshold-criterion",
        "recall",
        "--threshold-target",
        "0.8",
        "--calibration",
        "class",
    ]
    assert evaluate.main(["--workdir", str(workdir), "--bootstrap", "0", *tuning]) == 0
    result = json.loads((workdir / "eval_val.json").read_text())
    decision_rule = load_trained_model(workdir, "best").decision_rule
    assert result["tuned_for"] == "recall 0.8" and result["mAP_interval"] is None
    assert decision_rule.criterion is not None and decision_rule.criterion.calibration == "class"
    assert list(result["thresholds"].values()) == list(decision_rule.thresholds)
    assert decision_rule != tuned
    with pytest.raises(ValueError, match=r"evaluation\.threshold_criterion is 'accuracy'"):
        evaluate.main(["--workdir", str(workdir), "--threshold-criterion", "accuracy"])
    with pytest.raises(ValueError, match="--threshold-target needs a precision or a recall"):
        evaluate.main(
            ["--workdir", str(workdir), "--threshold-criterion", "f1", "--threshold-target", "0.8"]
        )


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(photos, tiny, tmp_path):
    config = make_config(photos, tiny, learning_rate=1e38)
    config.phases[0].clip_norm = 0.0
    with pytest.raises(FloatingPointError, match="at step") as caught:
        train(config, tmp_path / "run")
    step = int(str(caught.value).split("at step ")[1].split(";")[0])
    splits = pd.read_csv(tmp_path / "run" / "splits.csv")
    assert 1 < step <= 8
    named = str(caught.value).split("images: ")[1].split(", ")
    train_names = set(splits["filename"][splits["split"] == "train"])
    assert len(named) == 8 and set(named) <= train_names
    assert Checkpoints(tmp_path / "run").latest() in (None, 4)


@pytest.mark.slow
def test_an_update_that_is_not_finite_is_never_saved(photos, tiny, tmp_path):
    config = make_config(photos, tiny, learning_rate=3e38)
    config.phases = [config.phases[0]]
    config.phases[0].duration, config.phases[0].clip_norm = "1 step", 0.0
    with pytest.raises(FloatingPointError, match="not finite at step 1;"):
        train(config, tmp_path / "run")
    assert Checkpoints(tmp_path / "run").latest() is None


@pytest.mark.slow
def test_a_run_with_a_cache_has_the_same_result(photos, tiny, tmp_path, capsys):
    config = make_config(photos, tiny)
    config.augment.train_resize, config.phases = "squash", config.phases[:1]
    config.data.cache_folder = str(tmp_path / "cache")
    config.data.oversample, config.data.oversample_threshold = "sqrt", 0.9
    for where in ("none", "disk", "memory"):
        config.data.cache = where
        assert train(config, tmp_path / where) == 0
        assert records(tmp_path / where) == records(tmp_path / "none")
    output = capsys.readouterr().out
    for split in ("train", "val"):
        assert f"cache: {split}: " in output
        assert len(list((tmp_path / "cache").glob(f"{split}-*.images"))) == 1
    assert "cache of images 0." in output  # in the line about the first step


def test_a_failed_start_leaves_no_files(photos, tiny, tmp_path):
    config = make_config(photos, tiny)
    config.model.weights = str(tmp_path / "none.h5")
    config.data.cache, config.data.cache_folder = "disk", str(tmp_path / "run")
    with pytest.raises(ValueError, match=r"none\.h5 cannot be read \(No such file"):
        train(config, tmp_path / "run")
    config.model.weights, config.phases[0].groups[0].pattern = "", "haed/.*"
    with pytest.raises(ValueError, match="haed"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_paired_is_refused_before_anything_is_written(
    photos, tiny, tmp_path
):
    config = make_config(photos, tiny)
    config.augment.mixup = 0.8
    with pytest.raises(
        ValueError, match=r"data\.batch_size gives each device an odd number .*\(1\)"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_empty_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"data\.csv is empty"):
        train(Config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
