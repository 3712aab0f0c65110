"""The command line of a training: which config and which workdir it means."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlcls_jax.config import Config, Data, Model
from mlcls_jax.config.recipes import with_recipe
from mlcls_jax.config.serialization import to_json, with_absolute_paths
from mlcls_jax.run.start import Start, check, parse, start_of
from mlcls_jax.run.stored_config import read_config

# ml_collections loads a config file by a method that Python has deprecated.
DATA = ("--csv", "labels.csv", "--images", "photos")


def started(*argv: str) -> Start:
    return start_of(*parse(list(argv)))


def store(workdir: Path, config: Config, steps: tuple[int, ...] = (10, 20)) -> Config:
    """Creates what a run leaves: config.json with its recipe, and checkpoints."""
    config, _ = with_recipe(with_absolute_paths(config))
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(to_json(config))
    (workdir / "checkpoints").mkdir()
    for step in steps:
        (workdir / "checkpoints" / str(step)).mkdir()
    return config


def make_data() -> None:
    """Creates empty files with the names of DATA."""
    Path("photos").mkdir()
    for name in ("labels.csv", "new.csv", "val.csv"):
        Path(name).write_text("")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Returns the stored config of runs/mine, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    make_data()
    data = Data(csv="labels.csv", images="photos", val_csv="val.csv", label_delimiter=";")
    return store(Path("runs/mine"), Config(data=data, model=Model("lite0", head="mldecoder")))


def test_the_same_command_and_the_workdir_alone_continue(mine):
    assert started("--workdir", "runs/mine").config == mine
    assert started("--workdir", "runs/mine").note == "Config: that of runs/mine."
    again = ["--config", "lite0", *DATA, "--config.data.val_csv=val.csv", "--batch-size", "32"]
    again += ["--config.data.label_delimiter=;", "--config.model.head=mldecoder"]
    start = started("--workdir", "runs/mine", *again)
    assert start.workdir == Path("runs/mine") and start.note == ""
    assert with_recipe(start.config, mine)[0] == mine


def test_recipe_best_has_folds_and_a_refit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_data()
    first = ["--config", "lite0", *DATA, "--recipe", "best", "--workdir", "runs/best"]
    config = started(*first).config
    assert config.data.folds == 5 and config.data.refit
    store(Path("runs/best"), config)
    assert started(*first).config.data == config.data  # not refused as another config
    assert started("--workdir", "runs/best").config == read_config(Path("runs/best"))
    with pytest.raises(ValueError, match=r"data\.folds"):
        started(*first, "--folds", "3")


def test_what_does_not_change_the_result_may_change(mine):
    config = started("--workdir", "runs/mine", "--config.data.threads=3").config
    assert config.data.threads == 3


def test_more_epochs_in_a_workdir_name_the_way(mine):
    with pytest.raises(ValueError) as info:
        started("--workdir", "runs/mine", "--epochs", "30")
    assert str(info.value) == (
        "runs/mine holds a run with another config (phases[1].duration: '12 epochs' -> "
        "'30 epochs'); continue it with its own config: python -m mlcls_jax.train --workdir "
        "runs/mine; or for more epochs, start a new run from its weights: python -m "
        "mlcls_jax.train --resume-from runs/mine --workdir runs/mine-2 --epochs 0 30"
    )
    started("--resume-from", "runs/mine", "--workdir", "runs/mine-2", "--epochs", "0", "30")


def test_another_config_in_a_workdir_is_refused_at_once(mine):
    with pytest.raises(ValueError, match=r"model\.variant: 'lite0' -> 'b0'.*; or start a new run"):
        started("--config", "b0", "--workdir", "runs/mine")


def test_a_new_run_from_a_run_has_its_config(mine):
    start = started("--resume-from", "runs/mine")
    weights = str(Path("runs/mine").absolute())
    expected = dataclasses.replace(mine, model=dataclasses.replace(mine.model, weights=weights))
    assert start == Start(expected, Path("runs/mine-2"), "Config: that of runs/mine.")
    config = started("--resume-from", "runs/mine", "--csv", "new.csv", "--workdir", "x").config
    assert config.data.csv == str(Path("new.csv").absolute())
    assert (config.data.val_csv, config.data.label_delimiter) == ("", ";")
    assert config.data.images == mine.data.images
    config = started("--resume-from", "runs/mine/checkpoints/10", "--lr", "1e-3").config
    assert config.model.weights == f"{weights}/checkpoints/10"
    assert [group.learning_rate for group in config.phases[1].groups] == [1e-3, 6e-4]


def test_a_new_run_from_a_run_with_a_plan_for_minutes_keeps_its_durations(mine):
    store(Path("runs/timed"), dataclasses.replace(mine, minutes=5.0))
    assert started("--resume-from", "runs/timed").config.minutes == 0
    assert started("--resume-from", "runs/timed", "--minutes", "3").config.minutes == 3


def test_a_named_config_may_start_from_a_run(mine):
    config = started("--config", "lite0", *DATA, "--resume-from", "runs/mine").config
    assert config.model.head == "gap" and config.model.weights.endswith("runs/mine")
    same = started("--config", "lite0", *DATA, "--config.model.weights=runs/mine")
    assert same.config == config
    assert same.workdir == Path("runs/lite0")


def test_without_a_config_the_default_is_used_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_data()
    start = started(*DATA)
    assert start.workdir == Path("runs/default") and start.config.model.variant == "b0"
    assert start.note.startswith("Config: default (EfficientNet b0); --config NAME chooses another")
    store(start.workdir, start.config)
    assert started(*DATA).note == "Config: that of runs/default."


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing says what to train: name your data, as in --csv labels.csv --images photos"),
        (["labels.csv", "photos"], "labels are named with --csv labels.csv"),
        (["--workdir", "runs/new"], "--workdir runs/new holds no run to continue; for a new run"),
        (["--config", "b0"], r"data\.csv is empty; name your data"),
        (["--csv", "mine.csv"], r"mine\.csv: no such file; check --csv \(data\.csv\)"),
        (["--config", "demo"], "data/demo/labels.csv: no such file; .*demo makes it"),
        (["--csv", "new.csv", "--images", "fotos"], "fotos: no such folder; check --images"),
        (["--resume-from", "runs/mien"], "runs/mien does not exist; did you mean runs/mine?"),
        (["--resume-from", "runs"], "runs holds no run with a checkpoint; name the --workdir of"),
        (["--resume-from", "runs/folds"], "it has folds, so name one, such as runs/folds/fold-0"),
        (["--resume-from", "imagenet"], "imagenet does not exist"),
        (["--resume-from", "x.h5"], r"is a file, not the folder .* --config\.model\.weights=x\.h5"),
        (["--resume-from", "runs/mine/checkpoints/7"], "holds no checkpoint 7; it has 10, 20"),
        (["--resume-from", "runs/empty"], "runs/empty holds no checkpoint yet; train in it first"),
        (
            ["--resume-from", "runs/mine", "--workdir", "runs/mine"],
            "both runs/mine; leave out --resume-from .* or use --workdir runs/mine-2",
        ),
        (
            ["--resume-from", "runs/mine", "--config.model.weights=imagenet"],
            r"--resume-from and --config\.model\.weights set the same field",
        ),
        (
            ["--config", "b0", *DATA, "--resume-from", "runs/mine"],
            r"=lite0, but model\.variant is b0; set --config\.model\.variant=lite0, or leave out",
        ),
        (
            ["--config", "b0", *DATA, "--config.model.weights=runs/mine/checkpoints/20"],
            r"runs/mine with model\.variant=lite0, but model\.variant is b0",
        ),
        (["--config", "b0", "--epochs", "1", "2", "3"], "one for each of the phases"),
        (["--workdir", "runs/mine", "--config.phases[5].ema=0"], r"there is no phases\[5\]; there"),
    ],
)
def test_a_wrong_command_line_is_one_line(mine, argv, message):
    store(Path("runs/empty"), mine, ())
    Path("runs/folds/fold-0").mkdir(parents=True)
    Path("x.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as info:
        started(*argv)
    assert "\n" not in str(info.value)


def test_the_check_before_the_imports_prints_and_exits(mine, capsys, monkeypatch):
    monkeypatch.delenv("MLCLS_JAX_TRACEBACK", raising=False)
    check(["--workdir", "runs/mine"])
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit) as info:
        check(["--workdir", "runs/new"])
    assert info.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: --workdir runs/new") and err.count("\n") == 1
    monkeypatch.setenv("MLCLS_JAX_TRACEBACK", "1")
    check(["--workdir", "runs/new"])  # the command raises it again, with its traceback


def test_a_mistake_is_reported_without_importing_jax(tmp_path):
    code = (
        "import sys; import mlcls_jax.run.start; print(sorted({'jax', 'pandas'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout == "[]\n"
