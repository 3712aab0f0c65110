"""The workdir: which run it belongs to, and which files are written into it."""

import csv
import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.config import Config
from mlcls_jax.config.serialization import to_json
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.evaluation.decision_rule import DecisionRule, ThresholdCriterion, untuned_rule
from mlcls_jax.run.best_scores import read_decision_rule, write_decision_rule
from mlcls_jax.run.trained_model import write_predictions
from mlcls_jax.run.workdir import (
    CLASSES,
    CONFIG,
    DECISION_RULE,
    LOCK,
    in_use,
    prepare,
    read_classes,
    read_config,
)

NAMES = ("cat", "dog, small", 'a "b"', "Vögel", "line\u2028separator")


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_new_workdir_holds_config_and_classes(tmp_path):
    workdir = tmp_path / "runs" / "one"
    config = Config(seed=4)
    prepare(workdir, config, NAMES)
    assert set(contents(workdir)) == {CONFIG, CLASSES}
    assert read_config(workdir) == config
    assert read_classes(workdir) == NAMES


def test_an_empty_folder_is_as_good_as_a_new_one(tmp_path):
    prepare(tmp_path, Config(), NAMES)
    assert read_config(tmp_path) == Config()


def saved(workdir):
    """Creates what the first checkpoint creates."""
    (workdir / "checkpoints" / "7").mkdir(parents=True)


def test_until_its_first_checkpoint_a_workdir_is_new(tmp_path):
    prepare(tmp_path, Config(seed=4), NAMES)
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    prepare(tmp_path, Config(seed=5), NAMES[1:])
    assert read_config(tmp_path) == Config(seed=5)
    assert read_classes(tmp_path) == NAMES[1:]


def test_its_own_workdir_is_accepted_and_left_as_it_is(tmp_path):
    prepare(tmp_path, Config(seed=4), NAMES)
    saved(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    before = contents(tmp_path)
    prepare(tmp_path, Config(seed=4), NAMES)
    assert contents(tmp_path) == before


def test_another_config_is_refused_and_every_changed_field_named(tmp_path):
    prepare(tmp_path, Config(), NAMES)
    saved(tmp_path)
    before = contents(tmp_path)
    other = Config(seed=9)
    other.phases[1].groups[0].learning_rate = 0.5
    other.data.batch_size = 7
    with pytest.raises(ValueError) as info:
        prepare(tmp_path, other, NAMES)
    message = str(info.value)
    assert str(tmp_path) in message and "\n" not in message
    assert "seed: 0 -> 9" in message
    assert "data.batch_size: 32 -> 7" in message
    assert "phases[1].groups[0].learning_rate: 0.0005 -> 0.5" in message
    assert "eval_batch_size" not in message
    assert contents(tmp_path) == before


def test_a_workdir_has_one_training_at_a_time(tmp_path):
    workdir = tmp_path / "runs" / "one"
    with in_use(workdir):
        prepare(workdir, Config(), NAMES)
        assert (workdir / LOCK).exists()
        message = rf"in use by process {os.getpid()} on host .* since .*; wait for it or stop it"
        with pytest.raises(ValueError, match=message), in_use(workdir):
            pass
        read_config(workdir)  # readers need no lock
    assert set(contents(workdir)) == {CONFIG, CLASSES}


def test_the_lock_of_a_killed_training_is_taken_over_with_a_message(tmp_path, capsys):
    (tmp_path / LOCK).write_text('{"pid": 1, "host": "vm-3", "since": "then"}')
    with in_use(tmp_path):
        said = " ".join(capsys.readouterr().out.split())
        assert "A previous run (process 1 on host vm-3 since then) exited without releasing" in said


def test_a_start_that_fails_leaves_no_workdir(tmp_path):
    with pytest.raises(ValueError, match="weights"), in_use(tmp_path / "run"):
        raise ValueError("weights")
    assert not (tmp_path / "run").exists()


def test_a_foreign_folder_is_not_locked(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with (
        pytest.raises(ValueError, match=r"something other.*thesis\.tex"),
        in_use(tmp_path),
    ):
        pass
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("mlcls_jax.run.workdir.held", refuses)
    message = r"cannot be written: Read-only file system$"
    with pytest.raises(ValueError, match=message), in_use(tmp_path):
        pass


def test_the_config_of_an_older_version_gets_the_defaults_of_newer_fields(tmp_path):
    values = json.loads(to_json(Config(seed=4)))
    del values["model"]["remat"], values["evaluation"], values["phases"][0]["ema"]
    (tmp_path / CONFIG).write_text(json.dumps(values))
    assert read_config(tmp_path) == Config(seed=4)


def test_a_field_of_a_newer_version_is_named(tmp_path):
    values = json.loads(to_json(Config()))
    values["model"]["telepathy"] = True
    (tmp_path / CONFIG).write_text(json.dumps(values))
    with pytest.raises(ValueError, match="telepathy"):
        read_config(tmp_path)


class Killed(BaseException):
    """Nothing after it runs, as after SIGKILL."""


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("renamed", [False, True])
def test_killed_at_any_write_the_same_command_continues(tmp_path, monkeypatch, write, renamed):
    replace, writes = os.replace, []

    def killed(source, target):
        writes.append(target)
        if len(writes) < write or renamed:
            replace(source, target)
        if len(writes) == write:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            prepare(tmp_path, Config(seed=4), NAMES)
    assert contents(tmp_path)
    prepare(tmp_path, Config(seed=4), NAMES)
    assert read_config(tmp_path) == Config(seed=4)
    assert read_classes(tmp_path) == NAMES


def test_lost_classes_are_not_replaced_by_those_of_the_csv(tmp_path):
    prepare(tmp_path, Config(), NAMES)
    saved(tmp_path)
    (tmp_path / CLASSES).unlink()
    with pytest.raises(ValueError, match=r"classes\.txt cannot be read"):
        prepare(tmp_path, Config(), NAMES[::-1])


@pytest.mark.parametrize("classes", [NAMES[:-1], NAMES[::-1], (*NAMES, "new")])
def test_other_classes_are_refused(tmp_path, classes):
    prepare(tmp_path, Config(), NAMES)
    saved(tmp_path)
    with pytest.raises(ValueError, match="classes"):
        prepare(tmp_path, Config(), classes)


def test_a_foreign_folder_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"something other.*thesis\.tex"):
        prepare(tmp_path, Config(), NAMES)
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_a_file_is_no_workdir(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="file"):
        prepare(file, Config(), NAMES)
    assert file.read_text() == "mine"


NO_CONFIG = [None, "", "{", "[]", "3", '{"seed": 1, "sede": 2}', '{"seed": "x"}', "[" * 10**5]
NO_CONFIG += ['{"seed": -1}', '{"model": {"variant": "b99"}}', '{"model": {"image_size": 999999}}']


@pytest.mark.parametrize("text", NO_CONFIG, ids=range(len(NO_CONFIG)))
def test_an_unreadable_config_is_a_value_error(tmp_path, text):
    if text is not None:
        (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=r"holds no run|config: "):
        read_config(tmp_path)


def test_predictions_read_back_in_order_with_six_decimals(tmp_path):
    path = tmp_path / "predictions.csv"
    classes = ("cat", "filename", "dog, small")  # a class may be called like our own column
    images = ["a.jpg", "sub/b, c.jpg", 'q"uote.jpg']
    values = np.random.default_rng(0).random((3, 3))
    values[0, 0], values[1, 1] = 1e-9, 1.0
    write_predictions(path, images, values, classes)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["filename", *classes]
    assert [row[0] for row in rows] == images
    assert [cell for row in rows for cell in row[1:]] == [f"{x:.6f}" for x in values.flat]


FORMULAS = (
    '=HYPERLINK("x")',
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    " =1",
    "＝1",
    "'=1",
    "caf\udce9",
)
CELLS = ["'" + name for name in FORMULAS[:9]] + [r"caf\udce9"]
CELLS[4:6] = ["'\t'=1", "'\r'=1"]


def test_a_spreadsheet_finds_no_formula_in_predictions(tmp_path):
    path, values = tmp_path / "p.csv", np.zeros((len(FORMULAS), 2))
    write_predictions(path, FORMULAS, values, ("=a", "b"))
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["filename", "'=a", "b"]
    assert [row[0] for row in rows] == CELLS


def test_escaped_labels_are_read_as_they_were(tmp_path):
    path, names = tmp_path / "labels.csv", [name for name in FORMULAS if name.isprintable()]
    labels = np.arange(2 * len(names)).reshape(-1, 2) % 2
    for name in names:
        (tmp_path / name).touch()
    write_predictions(path, names, labels.astype(np.int8), ("=a", "-b"))
    assert "=a" not in path.read_text().replace("'=a", "") and "\n=" not in path.read_text()
    table = read_labels(path, tmp_path)
    assert (list(table.filenames), table.classes) == (names, ("=a", "-b"))
    np.testing.assert_array_equal(table.labels, labels)


def test_how_a_run_reads_images_may_change_when_it_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("mlcls_jax.run.workdir.has_run", lambda _: (tmp_path / CONFIG).exists())
    config = Config()
    prepare(tmp_path, config, ("a",))
    config.data.on_bad_image, config.data.threads, config.data.cache = "skip", 3, "disk"
    config.data.loader = "threads"
    prepare(tmp_path, config, ("a",))
    assert read_config(tmp_path) == config
    config.data.batch_size = 16
    with pytest.raises(ValueError, match=r"another config \(data\.batch_size: 32 -> 16\)"):
        prepare(tmp_path, config, ("a",))
    config.data.batch_size, config.augment.train_resize = 32, "random_crop"
    (tmp_path / CONFIG).write_text(to_json(config))
    config.data.cache = "none"
    with pytest.raises(ValueError, match=r"data\.cache"):
        prepare(tmp_path, config, ("a",))


IN_TRAINING = DecisionRule(
    ThresholdCriterion("f1", 0.9, 10, "none"), (0.25, 0.125), (1.0, 1.0), ("a",)
)
LATER = DecisionRule(
    ThresholdCriterion("recall", 0.8, 5, "one"), (0.5, 0.75), (2.0, 2.0), (), ("b",)
)


def test_a_decision_rule_tuned_later_replaces_that_of_the_checkpoint(tmp_path):
    metadata = {"step": 7, "classes": ["a", "b"], "decision_rule": dataclasses.asdict(IN_TRAINING)}
    assert read_decision_rule(tmp_path, metadata) == IN_TRAINING
    write_decision_rule(tmp_path, 7, LATER)
    assert read_decision_rule(tmp_path, metadata) == LATER
    other_checkpoint = metadata | {"step": 8}
    assert read_decision_rule(tmp_path, other_checkpoint) == IN_TRAINING


def test_a_checkpoint_without_a_decision_rule_is_untuned(tmp_path):
    assert read_decision_rule(tmp_path, {"step": 7, "classes": ["a", "b"]}) == untuned_rule("ab")


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", '{"step": 7}', '{"step": 7, "decision_rule": {}}']
)
def test_a_decision_rule_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / DECISION_RULE).write_text(text)
    with pytest.raises(ValueError, match=r"decision_rule\.json cannot be read .*; remove it"):
        read_decision_rule(tmp_path, {"step": 7, "classes": ["a"]})
