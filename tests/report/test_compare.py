"""The page that compares runs, on images and classes that all of them have."""

import dataclasses

import numpy as np
import pytest
from report_runs import a_best, a_run
from sklearn.metrics import average_precision_score

from mlcls_jax.config.schema import image_size
from mlcls_jax.evaluation.bootstrap import paired_differences
from mlcls_jax.report import compare
from mlcls_jax.report.__main__ import main
from mlcls_jax.report.compare import render
from mlcls_jax.report.inputs import gather
from mlcls_jax.run.best_scores import write_best_evaluation

NAMES = ("cat", "<b>dog", "bird")


def a_scored_run(folder, step=20, names=NAMES, val=30):
    """Inputs of the report of a run whose best evaluation is that of a step."""
    folder.mkdir()
    workdir, splits = a_run(folder, names, val=val)
    write_best_evaluation(workdir, a_best(splits["val"], step))
    return gather(workdir, splits)


def test_differences_are_those_of_scikit_learn_on_the_same_resamples():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 3)) < 0.4).astype(np.int8)
    labels[:, 2] = 0
    labels[:3, 2] = 1  # too few for an interval of its own
    ours, theirs = (labels + rng.normal(0, scale, labels.shape) for scale in (0.5, 1.0))
    mean, each = paired_differences(labels, ours, theirs, 400, seed=0)
    assert each[2] is None and mean is not None
    rows = rng.integers(0, 200, (400, 200))

    def gain(chosen, c):
        one, other = (
            average_precision_score(labels[chosen, c], scores[chosen, c])
            for scores in (ours, theirs)
        )
        return one - other

    for c in (0, 1):
        resampled = np.array([gain(chosen, c) for chosen in rows])
        expected = np.percentile(resampled, [2.5, 97.5]) - resampled.mean()
        interval = each[c]
        assert interval is not None
        own = gain(slice(None), c)
        np.testing.assert_allclose(
            [interval.low - own, interval.high - own], expected, atol=0.15 * np.ptp(expected)
        )


def test_equal_runs_have_no_difference_and_other_fields_are_named(tmp_path):
    one, other = a_scored_run(tmp_path / "one"), a_scored_run(tmp_path / "other")
    model = dataclasses.replace(other.config.model, image_size=image_size(other.config.model))
    other = dataclasses.replace(other, config=dataclasses.replace(other.config, model=model))
    page = render([one, other])
    assert "model.image_size" not in page  # 0 is the size of the network
    assert page.count("+0.0000 <small>+0.0000 to +0.0000</small>") >= 1
    assert "one/run" in page and "other/run" in page
    assert "<td>data.images</td>" in page and "<td>data.csv</td>" not in page
    assert "&lt;b&gt;dog" in page and "<b>dog" not in page


def test_only_shared_images_and_classes_are_compared(tmp_path):
    one = a_scored_run(tmp_path / "one", val=30)
    other = a_scored_run(tmp_path / "other", 10, ("bird", "cat"), val=20)
    other.splits["val"].labels[0, 1] ^= 1  # cat
    page = render([one, other])
    assert "over the 20 val images and 2 classes that all of them have" in page
    labels = one.splits["val"].labels[:20]
    changed = (labels[:, [2, 0]] != other.splits["val"].labels).sum()
    assert changed and f"{changed} labels of these images are not the same" in page


def test_runs_without_anything_in_common_are_refused(tmp_path):
    one = a_scored_run(tmp_path / "one")
    other = a_scored_run(tmp_path / "other", names=("x", "y"))
    with pytest.raises(ValueError, match="no class is in all of these runs"):
        render([one, other])
    with pytest.raises(ValueError, match="is named twice"):
        render([one, one])
    folder = tmp_path / "new"
    folder.mkdir()
    workdir, splits = a_run(folder, NAMES)
    with pytest.raises(ValueError, match="run has no evaluation yet"):
        render([one, gather(workdir, splits)])


def test_the_command(tmp_path, capsys, monkeypatch):
    inputs = {run.workdir: run for run in (a_scored_run(tmp_path / name) for name in "ab")}
    monkeypatch.setattr(compare, "gather", inputs.get)
    out = tmp_path / "page.html"
    assert main(["--compare", *map(str, inputs), "--out", str(out)]) == 0
    assert "Comparison of 2 runs" in out.read_text(encoding="utf-8")
    for wrong, message in (
        (["--compare", "a"], "name 2 to 8"),
        (["--workdir", "a", "--out", "x.html"], "--out belongs to --compare"),
        (["--compare", "a", "b", "--workdir", "c"], "--compare goes with --out only"),
        ([], "--workdir is missing"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
        assert message in capsys.readouterr().err
