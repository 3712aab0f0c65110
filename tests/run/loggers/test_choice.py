"""The loggers of a run: which ones, what they call the run, and what is kept about it."""

import json
from pathlib import Path

import pytest

from mlcls_jax.config import Log
from mlcls_jax.run.loggers.background import BackgroundLogger
from mlcls_jax.run.loggers.choice import Kept, loggers_of
from mlcls_jax.run.loggers.tensorboard import Events

ALL = Log(to="tensorboard,wandb,mlflow,trackio")


def test_tensorboard_writes_at_once_and_the_others_from_threads(tmp_path):
    loggers = loggers_of(ALL, tmp_path, 0, None)
    assert [type(logger) for logger in loggers] == [Events, *[BackgroundLogger] * 3]
    assert loggers_of(Log(to=""), tmp_path, 0, None) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "fold", "run_name", "expected"),
    [
        ("mine", None, "", ("mine", "")),
        ("mine", None, "best", ("best", "")),
        ("mine/fold-1", 1, "", ("mine-fold-1", "mine")),
        ("mine/fold-1", 1, "best", ("best-fold-1", "best")),
        ("mine", -1, "", ("mine", "mine")),  # on the images of all folds
    ],
)
def test_a_run_has_the_name_of_its_folder_and_folds_are_a_group(
    tmp_path, folder, fold, run_name, expected
):
    (logger,) = loggers_of(Log("wandb", "cats", run_name), tmp_path / folder, 0, fold)
    run = logger._run
    assert (run.name, run.group) == expected and run.project == "cats"


def test_what_is_kept_is_read_by_a_run_that_continues_only(tmp_path):
    path = tmp_path / "loggers.json"
    Kept(path, continued=False).keeper("wandb")({"id": "a"})
    kept = Kept(path, continued=True)
    kept.keeper("mlflow")({"id": "b"})
    kept.keeper("wandb")({"step": 3})
    assert json.loads(path.read_text()) == {"wandb": {"id": "a", "step": 3}, "mlflow": {"id": "b"}}
    assert Kept(path, continued=True).of("wandb") == {"id": "a", "step": 3}
    assert Kept(path, continued=False).of("wandb") == {}  # the workdir of a start that failed


@pytest.mark.parametrize("text", ["", "[]", '{"wandb": 3}', "\0"])
def test_a_damaged_file_counts_as_empty(tmp_path, text):
    (tmp_path / "loggers.json").write_text(text)
    assert Kept(tmp_path / "loggers.json", continued=True).of("wandb") == {}


def test_a_full_disk_is_no_error(tmp_path: Path):
    Kept(tmp_path / "absent" / "loggers.json", continued=False).keeper("wandb")({"id": "a"})
