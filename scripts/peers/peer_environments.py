"""The environments of the peers: a venv each, with pinned versions."""

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
    """Those of the extra `reference`, so that both comparisons are with the same timm."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    wanted = ("torch", "torchvision", "timm")
    return tuple(pin for pin in extras["reference"] if pin.partition("==")[0] in wanted)


def python_of(peer: str, environments: Path) -> str:
    """Of the environment of "timm", "keras" or "grain" in that folder; made if need be."""
    pins = {"timm": timm_pins(), "keras": KERAS, "grain": GRAIN}[peer]
    return str(ensure(environments / peer, pins))


def ensure(folder: Path, pins: tuple[str, ...]) -> Path:
    """The Python of a venv with these packages; made anew unless it was finished with these pins.

    Raises:
        ValueError: the last line of what venv or pip complained about.
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
    """Of those with something in them; the one that says what was wrong, as a rule."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "said nothing"
