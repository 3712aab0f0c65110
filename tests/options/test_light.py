"""A command that is refused answers at once: it checks its arguments before it imports JAX."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlcls_jax.__main__ import COMMANDS
from mlcls_jax.config import Config
from mlcls_jax.config.serialization import to_json

ROOT = Path(__file__).parents[2]
# Runs a module as python -m does, and fails if it has imported what takes seconds.
SCRIPT = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__")
finally:
    slow = {"jax", "pandas", "matplotlib"} & {*sys.modules}
    assert not slow, slow
"""
# ml_collections loads a config file by a method that Python has deprecated.
RUN = ("--workdir", "run")
DATA = ("--csv", "labels.csv", "--images", "photos")
EXPORT = ("--format", "onnx", "--out")
NO_RUN = "none holds no run: .*; choose the workdir of a run"
NO_STEP = "checkpoint '7' is not in run/checkpoints; choose best, latest or one of 10"


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with what a run leaves, a run without checkpoints, and some data."""
    for name in ("run/checkpoints/10", "untrained", "photos", "full"):
        (tmp_path / name).mkdir(parents=True)
    for run in ("run", "untrained"):
        (tmp_path / run / "config.json").write_text(to_json(Config()))
    for name in ("labels.csv", "names.csv", "photos/a.jpg", "full/file"):
        (tmp_path / name).write_text("")
    return tmp_path


def refused(command: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    module = f"mlcls_jax.{command.replace('-', '_')}"
    environment = {name: v for name, v in os.environ.items() if name != "MLCLS_JAX_TRACEBACK"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_an_unknown_option_are_answered_without_jax(command, tmp_path):
    done = refused(command, tmp_path, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: python -m mlcls_jax.{command.replace('-', '_')} ")
    done = refused(command, tmp_path, "--wrkdir", "x")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --wrkdir is not an option; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("evaluate", (), "arguments are required: --workdir; see .* --help"),
        ("evaluate", ("--workdir", "none"), NO_RUN),
        ("evaluate", ("--workdir", "photos"), NO_RUN.replace("none", "photos")),
        ("evaluate", ("--workdir", "untrained"), "holds no checkpoint yet; train in it first"),
        ("evaluate", (*RUN, "--checkpoint", "7"), NO_STEP),
        ("evaluate", (*RUN, "--csv", "no.csv"), "no.csv: no such file; check --csv"),
        ("evaluate", (*RUN, "--images", "no"), "no: no such folder; check --images"),
        ("evaluate", (*RUN, "--calibration", "all"), "calibration is 'all'; .*one, class, none"),
        ("predict", RUN, "arguments are required: IMAGE_OR_FOLDER; see"),
        ("predict", ("--workdir", "none", "photos"), NO_RUN),
        ("predict", (*RUN, "--checkpoint", "7", "photos"), NO_STEP),
        ("predict", (*RUN, "photos", "no.jpg"), "no.jpg: no such file or folder; check the path"),
        ("predict", (*RUN, "no.csv"), "no.csv: no such CSV file; check the path"),
        ("predict", (*RUN, "names.csv", "--images", "no"), "no: no such folder; check --images"),
        ("predict", (*RUN, "photos", "--images", "no"), "--images is only for .*; leave it out"),
        ("predict", (*RUN, "photos", "--csv", "no/a.csv"), "folder does not exist; create it"),
        (
            "predict",
            (*RUN, "photos", "--label-studio", "no/a.json"),
            "--label-studio no/a.json: it",
        ),
        ("predict", (*RUN, "photos", "--explain", "full"), "already exists; choose a new folder"),
        ("embed", ("photos", *RUN), "arguments are required: --out; see"),
        ("embed", ("photos", *RUN, "--out", "a.csv"), "a.csv: its name must end in .npz or .parq"),
        ("embed", ("photos", *RUN, "--out", "no/a.npz"), "folder does not exist; create it"),
        ("embed", ("no.jpg", *RUN, "--out", "a.npz"), "no.jpg: no such file or folder; check"),
        ("export", (*RUN, *EXPORT[1:], "new"), "arguments are required: --format; see"),
        ("export", ("--workdir", "none", *EXPORT, "new"), NO_RUN),
        ("export", (*RUN, *EXPORT, "new", "--checkpoint", "7"), NO_STEP),
        ("export", (*RUN, *EXPORT, "full"), "full already exists; choose a new folder"),
        ("export", (*RUN, "--push", "birds"), "hf-hub:birds names no repository .*; write hf-hub:"),
        (
            "export",
            (*RUN, "--push", "me/birds", "--format", "onnx"),
            "uploads safetensors, not onn",
        ),
        ("export", (*RUN, "--push", "me/birds@v2"), "--push me/birds@v2: leave out the revision"),
        ("export", (*RUN, *EXPORT, "new", "--private"), "--private is for --push USER/NAME"),
        ("train", (*DATA, "--config.log.to=wand"), "log.to has 'wand'; it must be names of tensor"),
        ("train", (*DATA, "--config.model.weights=hf-hub:me"), "hf-hub:me names no repository"),
        ("serve", ("--workdir", "none"), NO_RUN),
        ("serve", (*RUN, "--checkpoint", "7"), NO_STEP),
        ("serve", (*RUN, "--port", "-1"), "--port -1: it must be 0 to 65535"),
        ("report", ("--workdir", "none"), NO_RUN),
        ("lr-find", (), "name a config, as in --config b5, or a run, as in --workdir runs/b5; see"),
        ("lr-find", ("--config", "b55"), "--config b55: no such file, .*nearest is b5"),
        ("lr-find", ("--config", "b0"), "data.csv is empty; name your data, as in --csv"),
        ("lr-find", ("--config", "b0", "--csv", "no.csv"), "no.csv: no such file; check --csv"),
        ("lr-find", ("--config", "b0", *DATA, "--phase", "x"), "--phase x: .*choose from head"),
        ("lr-find", ("--config", "b0", *DATA, "--workdir", "none"), NO_RUN),
        ("lr-find", ("--config", "b0", *DATA, "--out", "no/a.png"), "does not exist; create it"),
        ("lr-find", ("--config", "b0", "--config.sede=3"), "sede"),
        ("benchmark", (), "arguments are required: --config; see"),
        ("benchmark", ("--config", "b0", "--csv", "no.csv"), "no.csv: no such file; check --csv"),
        ("benchmark", ("--config", "b0", "--sweep", "sizes=1"), "sizes: .*; use batch_size"),
        ("benchmark", ("--config", "b0", "--what", "all?"), "--what: invalid choice: 'all\\?'"),
        ("pack", (), "arguments are required: --out; see"),
        ("pack", ("--out", "new"), "give either --csv and --images, or --tfds; see"),
        (
            "pack",
            ("--out", "new", "--csv", "no.csv", *DATA[2:]),
            "no such CSV file; check the path",
        ),
        ("pack", ("--out", "new", *DATA[:3], "no"), "no: no such folder; check --images"),
        ("pack", ("--out", "full", *DATA), "full already exists; choose a new folder"),
        ("to-csv", (), "arguments are required: --out; see"),
        ("to-csv", ("--out", "new"), "data.csv is empty; set it to the labels to read"),
        ("to-csv", ("--out", "new", "--config.data.csv=no.csv"), "no such file; check data.csv"),
        (
            "to-csv",
            ("--out", "full", "--config.data.csv=labels.csv"),
            "full already exists; choose",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do_without_jax(
    folder, command, arguments, message
):
    before = sorted(folder.rglob("*"))
    done = refused(command, folder, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("report.__main__", "jax"), ("pack", "jax"), ("to_csv", "jax"), ("predict", "pandas")],
)
def test_commands_import_only_what_they_need(module, unwanted):
    code = (
        f"import sys, mlcls_jax.{module}; assert not {{'{unwanted}', 'sklearn'}} & {{*sys.modules}}"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
