"""Options that do not go together are refused before anything is read."""

import pytest

from mlcls_jax.evaluate import RESAMPLES, parse

RUN = ["--workdir", "runs/x"]


def test_by_default_val_is_scored_with_an_interval_and_nothing_is_tuned():
    options = parse(RUN)
    assert (options.split, options.bootstrap) == ("val", RESAMPLES)
    assert options.thresholds is options.wanted is options.calibration is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--bootstrap", "-1"], "--bootstrap -1"),
        (["--split", "test", "--thresholds", "f1"], "--thresholds is tuned on val"),
        (["--split", "train", "--wanted", "0.9"], "--wanted is tuned on val"),
        (["--csv", "a.csv", "--images", "b", "--calibration", "one"], "--calibration is tuned on"),
        (["--csv", "a.csv", "--images", "b", "--split", "val"], "leave it out beside --csv"),
        (["--images", "b", "--split", "val"], "leave it out beside --csv"),
        (["--images", "b", "--thresholds", "f1"], "--thresholds is tuned on val"),
        (["--source", "coco"], "--source is of --csv"),
        (["--csv", "a.csv", "--source", "kitti"], "--source"),
        (["--split", "dev"], "--split dev"),
        (["--tta", "flip", "--wanted", "0.9"], "--wanted tunes for predictions without --tta"),
    ],
)
def test_what_does_not_go_together_is_refused(given, named, capsys):
    with pytest.raises(SystemExit):
        parse([*RUN, *given])
    assert named in capsys.readouterr().err
