"""Environments of the peers: a venv with pinned versions for each."""

import subprocess
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ENVIRONMENTS = PYPROJECT.with_name(".venv-peers")
KERAS = ("keras==3.15.1", "tensorflow-cpu==2.21.0", "pandas==3.1.1", "pillow==13.0.0")
GRAIN = ("grain==0.2.18", "opencv-python-headless==5.0.0.93")
INSTALLED = "installed.txt"


def timm_pins() -> tuple[str, ...]:
    """Returns the pins of the extra `reference`, so that all comparisons use the same timm."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    packages = ("torch", "torchvision", "timm")
    return tuple(pin for pin in extras["reference"] if pin.partition("==")[0] in packages)


def python_of(peer: str, environments: Path) -> str:
    """Returns the Python of the environment of "timm", "keras" or "grain", made if necessary."""
    pins = {"timm": timm_pins(), "keras": KERAS, "grain": GRAIN}[peer]
    return str(ensure(environments / peer, pins))


def ensure(folder: Path, pins: tuple[str, ...]) -> Path:
    """Returns the Python of a venv with these packages.

    The venv is made from scratch unless it was completed with the same pins.

    Raises:
        ValueError: venv or pip failed; the message has the last line of its output.
    """
    python, marker = folder / "bin/python", folder / INSTALLED
    text = "".join(f"{pin}\n" for pin in pins)
    if python.exists() and marker.is_file() and marker.read_text() == text:
        return python
    print(f"installing {', '.join(pins)} in {folder}", file=sys.stderr, flush=True)
    _call([sys.executable, "-m", "venv", "--clear", str(folder)])
    _call([str(python), "-m", "pip", "install", "--quiet", *pins])
    marker.write_text(text)
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)}: {last_line(done.stdout)}")


def last_line(text: str) -> str:
    """Returns the last line that is not empty, which usually names the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
