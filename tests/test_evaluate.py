"""Impossible options and output folders are refused before any computation."""

import pytest

from mlcls_jax import evaluate, predict
from mlcls_jax.options.evaluate import RESAMPLES, parse
from mlcls_jax.system import files

RUN = ["--workdir", "runs/x"]


def test_by_default_val_is_scored_with_an_interval_and_nothing_is_tuned():
    options = parse(RUN)
    assert (options.split, options.bootstrap) == ("val", RESAMPLES)
    assert options.threshold_criterion is options.threshold_target is options.calibration is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--bootstrap", "-1"], "--bootstrap -1"),
        (["--at-recall", "0"], "--at-recall 0: it must be above 0"),
        (
            ["--split", "test", "--threshold-criterion", "f1"],
            "--threshold-criterion tunes on val",
        ),
        (["--split", "train", "--threshold-target", "0.9"], "--threshold-target tunes on val"),
        (["--csv", "a.csv", "--images", "b", "--calibration", "one"], "--calibration tunes on val"),
        (["--csv", "a.csv", "--images", "b", "--split", "val"], "leave it out with --csv"),
        (["--images", "b", "--split", "val"], "leave it out with --csv"),
        (["--images", "b", "--threshold-criterion", "f1"], "--threshold-criterion tunes on val"),
        (["--source", "coco"], "--source is the format of --csv"),
        (["--csv", "a.csv", "--source", "kitti"], "--source"),
        (["--split", "dev"], "--split dev"),
        (
            ["--tta", "h", "--threshold-target", "0.9"],
            "--threshold-target tunes without --tta",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, named, capsys):
    with pytest.raises(SystemExit):
        parse([*RUN, *given])
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_an_output_folder_that_takes_no_files_is_refused_before_the_computation(
    command, run, photos, tmp_path, monkeypatch
):
    def read_only(dir):
        raise OSError(30, f"Read-only file system: {dir}")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(evaluate, "load_trained_model", lambda *_: run)
    main, arguments = {
        "evaluate": (evaluate.main, ["--workdir", str(tmp_path)]),
        "predict": (predict.main, ["--workdir", "none", str(photos), "--csv", "predicted.csv"]),
    }[command]
    with pytest.raises(ValueError, match=r"no file can be written there \(Read-only"):
        main(arguments)
