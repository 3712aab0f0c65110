"""Ensembles: the mean of the networks of all folds, in predict and evaluate."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from mlcls_jax import evaluate, predict
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.data.loaders.loader import make_reader
from mlcls_jax.models.variants import VARIANTS, Variant
from mlcls_jax.options import evaluate as evaluate_options
from mlcls_jax.options import predict as predict_options
from mlcls_jax.run.ensemble import load_ensemble
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.run.tta import with_views
from mlcls_jax.train import train

FOLDS = 2


@pytest.fixture(scope="module")
def folds(photos, tmp_path_factory):
    """Returns the workdir of a cross-validation without a run on all images."""
    workdir = tmp_path_factory.mktemp("folds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True))
        config = Config(
            recipe="none",
            data=Data(
                csv=str(photos / "labels.csv"),
                images=str(photos),
                batch_size=8,
                eval_batch_size=8,
                folds=FOLDS,
            ),
            model=Model(variant="tiny", weights="", image_size=32),
            evaluation=Evaluation(min_positives_to_tune=1, train_sample=0),
            phases=[Phase("head", "8 steps", [Group("head/.*", 1e-1)], cached_views=1)],
        )
        assert train(config, workdir) == 0
        yield workdir


@pytest.mark.parametrize("tta", ["none", "h"])
def test_the_probability_is_the_mean_of_those_of_the_networks(folds, photos, tta):
    ensemble = load_ensemble(folds, tta)
    rule, paths = ensemble.decision_rule, sorted(map(str, photos.glob("*.png")))
    assert rule.tuned_on == "the out-of-fold predictions"
    expected = []
    for number in range(FOLDS):
        run = with_views(load_trained_model(folds / f"fold-{number}", "latest"), tta)
        logits, _ = run.outputs(paths, make_reader(run.config.data, 3, len(paths)))
        expected.append(expit(logits / np.array(rule.temperatures)))
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    logits, readable = ensemble.outputs(paths, make_reader(ensemble.config.data, 3, len(paths)))
    assert readable.all()
    np.testing.assert_allclose(rule.probabilities(logits), np.mean(expected, axis=0), atol=1e-6)


def test_predict_writes_the_mean_and_uses_the_thresholds_of_all_folds(folds, photos, tmp_path):
    files = [str(tmp_path / name) for name in ("scores.csv", "labels.csv")]
    command = [
        "--workdir",
        str(folds),
        "--ensemble",
        str(photos / "00.png"),
        str(photos / "01.png"),
    ]
    assert predict.main([*command, "--csv", files[0], "--labels", files[1]]) == 0
    scores, labels = (pd.read_csv(file).set_index("filename") for file in files)
    thresholds = json.loads((folds / "eval_out_of_fold.json").read_text())["thresholds"]
    expected = scores >= pd.Series(thresholds)[scores.columns]
    np.testing.assert_array_equal(labels.to_numpy(bool), expected.to_numpy())


def test_evaluate_scores_other_images_by_the_mean(folds, photos, capsys):
    command = ["--workdir", str(folds), "--ensemble"]
    other = ["--csv", str(photos / "labels.csv"), "--images", str(photos)]
    assert evaluate.main([*command, *other]) == 0
    assert f"mean of {FOLDS} networks, one of each fold" in " ".join(
        capsys.readouterr().out.split()
    )
    result = json.loads((folds / "eval_csv_labels.json").read_text())
    assert result["networks"] == FOLDS and result["num_images"] == 40
    with pytest.raises(ValueError, match=r"eval_out_of_fold\.json has the out-of-fold scores"):
        evaluate.main([*command, "--split", "val"])


@pytest.mark.parametrize("options", [predict_options, evaluate_options])
def test_a_run_without_finished_folds_is_refused_at_once(options, folds, trained, photos, capsys):
    image = [str(photos / "00.png")] if options is predict_options else []
    with pytest.raises(SystemExit, match="2"):
        options.check(["--workdir", str(trained), "--ensemble", *image])
    assert "has no folds; --ensemble needs a run of train --folds" in capsys.readouterr().err
    options.check(["--workdir", str(folds), "--ensemble", *image])
    kept = (folds / "fold-1" / "held_out.npz").rename(folds / "held_out.npz")
    with pytest.raises(SystemExit, match="2"):
        options.check(["--workdir", str(folds), "--ensemble", *image])
    kept.rename(folds / "fold-1" / "held_out.npz")
    assert "not all of its 2 folds are finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "other", "message"),
    [
        (predict_options, ["--checkpoint", "8"], "leave out --checkpoint"),
        (evaluate_options, ["--checkpoint", "8"], "leave out --checkpoint"),
        (predict_options, ["--explain", "maps"], "--explain needs one network"),
        (predict_options, ["--rank", "diverse"], "--rank diverse needs one network"),
        (evaluate_options, ["--calibration", "one"], "--calibration tunes one network"),
    ],
)
def test_options_of_one_network_are_refused(options, other, message, capsys):
    image = ["photo.jpg"] if options is predict_options else []
    with pytest.raises(SystemExit, match="2"):
        options.parse(["--workdir", "runs/folds", "--ensemble", *other, *image])
    assert message in " ".join(capsys.readouterr().err.split())


def test_one_network_runs_on_all_devices(folds):
    devices = jax.tree.leaves(load_ensemble(folds, "none").variables)[0].devices()
    assert len(devices) == jax.device_count()
