"""Configs with overrides, and errors of a command as one line and an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from mlcls_jax import cli
from mlcls_jax.config import Config, loading

# ml_collections loads a config file by a method that Python has deprecated.
DEFAULT = str(Path(__file__).parents[1] / "configs" / "default.py")


def config_file(folder: Path, body: str) -> str:
    path = folder / "own.py"
    path.write_text(
        "from mlcls_jax.config import *\n\ndef get_config():\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return str(path)


def test_overrides_reach_fields_of_every_depth_and_type():
    config = loading.load_config(
        DEFAULT,
        [
            "--config.seed=5",
            "--config.data.csv=labels.csv",
            "--config.data.val_fraction=0.5",
            "--config.augment.flip=False",
            "--config.model.dropout=0.3",
            "--config.phases[1].duration=20 epochs",
            "--config.phases[1].groups[0].learning_rate=0.5",
        ],
    )
    expected = Config(seed=5)
    expected.data.csv, expected.data.val_fraction = "labels.csv", 0.5
    expected.augment.symmetry, expected.model.dropout = "none", 0.3
    expected.phases[1].duration = "20 epochs"
    expected.phases[1].groups[0].learning_rate = 0.5
    assert config == expected


@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ("2.5", 2.5), ("3", 3), ("[1, 2.5]", [1, 2.5])]
)
def test_pos_weight_is_text_a_number_or_a_list(text, value):
    loss = loading.load_config(DEFAULT, [f"--config.loss.pos_weight={text}"]).loss
    assert (loss.name, loss.pos_weight) == ("bce", value)


def test_overrides_do_not_leak_into_the_next_load():
    assert loading.load_config(DEFAULT, ["--config.seed=5"]).seed == 5
    assert loading.load_config(DEFAULT, []) == Config()


def test_a_command_leaves_although_a_failed_save_has_left_a_thread():
    program = (
        "import threading; from mlcls_jax import cli; from mlcls_jax.system import threads\n"
        "threading.Thread(target=threading.Event().wait).start(); threads.leave('a save')\n"
        "cli.run(lambda _: 7)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 7


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--config.data.batchsize=3", "batchsize"),
        ("--config.sede=3", "sede"),
        ("--config.phases[7].duration=1 step", "phases[7]"),
        ("--config.data.batch_size=many", "batch_size"),
        ("--config.data.batch_size=0", "data.batch_size"),
        ("--config.augment.eval_resize=crop", "augment.eval_resize"),
        ("--config.model.variant=b9", "model.variant"),
        ("--config.loss.name=mse", "loss.name"),
        ("--config.loss.pos_weight=many", "loss.pos_weight"),
        ("--config.loss.pos_weight=True", "loss.pos_weight"),
        ("--config.loss.pos_weight=[1,[2]]", "loss.pos_weight"),
        ("--batch_size=3", "batch_size"),
        ("stray", "stray"),
    ],
)
def test_a_bad_override_is_one_line_that_names_it(override, named):
    with pytest.raises(ValueError) as info:
        loading.load_config(DEFAULT, [override])
    assert named in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("return Config(data=Data(batchsize=3))", "batchsize"),
        ("c = Config()\nc.data.batchsize = 3\nreturn c", "batchsize"),
        ("c = Config()\nc.data.batch_size = '3'\nreturn c", "batch_size"),
        ("return Config(model=Model(variant='b0', image_size=5))", "model.image_size"),
        ("return {'data': {}}", "get_config"),
        ("return nonsense", "nonsense"),
        ("raise ValueError('two\\nlines')", "two lines"),
    ],
)
def test_a_mistake_in_a_config_file_is_refused_by_name(tmp_path, body, named):
    with pytest.raises(ValueError) as info:
        loading.load_config(config_file(tmp_path, body), [])
    assert named in str(info.value)
    assert "\n" not in str(info.value)


def test_an_error_names_a_missing_config_file(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.py: no such file"):
        loading.load_config(str(tmp_path / "nowhere.py"), [])


def test_a_config_file_that_is_not_python_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"own\.py.*: SyntaxError: "):
        loading.load_config(config_file(tmp_path, "return ("), [])


def test_an_error_in_a_config_file_names_the_line(tmp_path):
    with pytest.raises(ValueError, match=r"own\.py line \d+: KeyError: x"):
        loading.load_config(config_file(tmp_path, "return {}['x']"), [])


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("data.csv: row 3\n  is bad"), 2, "error: data.csv: row 3 is bad\n"),
        (ValueError(), 2, "error: ValueError\n"),
        (FileNotFoundError(2, "No such file", "x.csv"), 2, None),
        (FloatingPointError("loss is nan at step 7"), 1, "error: loss is nan at step 7\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (MemoryError(), 1, "error: MemoryError; free memory, or raise its limit (ulimit -v)\n"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
            1,
            "error: RESOURCE_EXHAUSTED: out of memory; lower data.batch_size, "
            "data.eval_batch_size or model.image_size\n",
        ),
    ],
)
def test_errors_become_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    monkeypatch.delenv("MLCLS_JAX_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as info:
        cli.run(raising(error))
    assert info.value.code == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    assert err == line if line else "x.csv" in err


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(TypeError, match="a bug"):
        cli.run(raising(TypeError("a bug")))


def test_the_environment_variable_keeps_every_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("MLCLS_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="here"):
        cli.run(raising(ValueError("here")))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [0, 130])
def test_a_command_gets_the_arguments_and_returns_the_exit_code(monkeypatch, capsys, code):
    seen = []
    monkeypatch.setattr(sys, "argv", ["train", "--a", "b c"])
    with pytest.raises(SystemExit) as info:
        cli.run(lambda argv: seen.append(argv) or code)
    assert info.value.code == code
    assert seen == [["--a", "b c"]]
    assert capsys.readouterr().err == ""
