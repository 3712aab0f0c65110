"""The command mlcls-jax: its table of commands, refusals, and the form of the names it prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlcls_jax import __main__ as program
from mlcls_jax import __version__
from mlcls_jax.system import invocation

PACKAGE = Path(program.__file__).parent
# What pip writes for [project.scripts], without an installation.
LAUNCHER = "import sys; sys.argv[0] = '/bin/mlcls-jax'; from mlcls_jax.__main__ import main; main()"
# As `python -m mlcls_jax.train`.  Its first argument stands where runpy puts the module.
TRAIN = "import runpy, sys; del sys.argv[1]; runpy.run_module('mlcls_jax.train', None, '__main__')"


def call(*arguments: str, form: tuple[str, ...] = ("-c", LAUNCHER)) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", *form, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )


def test_each_command_is_a_module_of_its_own():
    for name in program.COMMANDS:
        path = PACKAGE / name.replace("-", "_")
        file = path.with_suffix(".py") if not path.is_dir() else path / "__main__.py"
        assert 'if __name__ == "__main__":' in file.read_text("utf-8"), name


def test_every_command_of_the_package_is_in_the_table():
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__main__.py")]
    runnable = [f for f in files if 'if __name__ == "__main__":' in f.read_text("utf-8")]
    modules = [f.parent if f.name == "__main__.py" else f.with_suffix("") for f in runnable]
    names = {m.relative_to(PACKAGE).as_posix().replace("_", "-") for m in modules} - {"."}
    assert names == set(program.COMMANDS)


@pytest.mark.parametrize("form", [("-c", LAUNCHER), ("-m", "mlcls_jax")])
def test_help_lists_all_commands_and_imports_no_jax(form):
    done = call("--help", form=("-X", "importtime", *form))
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in program.COMMANDS)
    modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "mlcls_jax.system" in modules and not modules & {"jax", "numpy", "rich", "argparse"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("trian",), "'trian' is not a command; did you mean train? "),
        (("lr_find", "--config", "b5"), "'lr_find' is not a command; did you mean lr-find? "),
        (("--workdir", "runs/b5"), "'--workdir' is not a command; "),
        (("\x1b[2J",), r"'\x1b[2J' is not a command; "),
        (("x" * 10_000,), f"'{'x' * program.LONGEST}'… is not a command; "),
    ],
)
def test_an_unknown_command_is_refused_in_one_line(arguments, line):
    done = call(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {line}mlcls-jax --help lists all commands\n"


def test_no_command_is_refused_with_the_list():
    done = call()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: mlcls-jax COMMAND")


def test_version():
    assert call("--version").stdout == f"mlcls_jax {__version__}\n"


def test_the_citation_has_the_version_of_the_package():
    citation = (PACKAGE.parent / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {__version__}\n" in citation


@pytest.mark.parametrize(
    ("called", "weights", "lr_find"),
    [
        ("/bin/mlcls-jax", "mlcls-jax weights", "mlcls-jax lr-find"),
        ("mlcls-jax.exe", "mlcls-jax weights", "mlcls-jax lr-find"),
        (
            "/x/mlcls_jax/__main__.py",
            "python -m mlcls_jax weights",
            "python -m mlcls_jax lr-find",
        ),
        (
            "/x/mlcls_jax/serve/__main__.py",
            "python -m mlcls_jax.weights",
            "python -m mlcls_jax.lr_find",
        ),
        ("own_script.py", "python -m mlcls_jax.weights", "python -m mlcls_jax.lr_find"),
        ("", "python -m mlcls_jax.weights", "python -m mlcls_jax.lr_find"),
    ],
)
def test_other_commands_are_named_in_the_users_form(monkeypatch, called, weights, lr_find):
    monkeypatch.setattr(sys, "argv", [called])
    assert invocation.command("weights") == weights
    assert invocation.command("lr_find") == lr_find


@pytest.mark.parametrize(
    ("form", "usage"),
    [
        (("-c", LAUNCHER, "weights"), "usage: mlcls-jax weights "),
        (("-m", "mlcls_jax", "weights"), "usage: python -m mlcls_jax weights "),
        (("-m", "mlcls_jax.weights"), "usage: python -m mlcls_jax.weights "),
    ],
)
def test_a_commands_help_has_the_users_form(form, usage):
    done = call("--help", form=form)
    assert done.returncode == 0 and done.stdout.startswith(usage)


def test_a_commands_error_is_one_line_and_its_exit_code_is_kept():
    done = call("weights", "b9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown variant 'b9'; choose from b0, ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "mlcls_jax.weights"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("train", "SIGTERM", 143),
        ("train", "SIGHUP", 129),
        ("train", "SIGINT", 130),
        ("predict", "SIGINT", 130),
    ],
)
def test_a_signal_during_the_imports_leaves_with_one_line(name, number, code):
    script = (
        "import os, runpy, signal, sys\n"
        f"runpy.run_module = lambda *a, **b: os.kill(os.getpid(), signal.{number})\n"
        f"sys.argv = ['mlcls-jax', '{name}']\n"
        "from mlcls_jax.__main__ import main; main(); signal.pause()"
    )
    done = call(form=("-c", script))
    assert (done.returncode, done.stderr) == (
        code,
        f"{number}: stopped before any work was done\n",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as ulimit -v does")
@pytest.mark.parametrize("megabytes", [500, 1800])
@pytest.mark.parametrize("launcher", [LAUNCHER, TRAIN], ids=["mlcls-jax", "mlcls_jax.train"])
def test_a_limit_of_memory_that_strikes_in_imports_is_one_line(tmp_path, launcher, megabytes):
    labels = tmp_path / "labels.csv"
    labels.write_text("filename,red\nx.png,1\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20,) * 2)\n"
    arguments = ("train", "--csv", labels, "--images", tmp_path, "--workdir", tmp_path / "run")
    done = call(*map(str, arguments), form=("-c", limit + launcher))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the address space of this process is limited to ")
    assert line.endswith("for this command; run ulimit -v unlimited, or raise it")
