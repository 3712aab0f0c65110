"""Measures the time from the command to the end of the first step, with a cold and a warm cache.

    python scripts/measure/measure_start.py [--variant b0] [--phase head|finetune] [--warm 2]
    python scripts/measure/measure_start.py --config.data.batch_size=16    # any config override

Writes JPEGs of noise, a CSV and random weights to a temporary folder, and runs the real command,
`python -m mlcls_jax.train`, in new processes: first with an empty compilation cache, then with the
cache of the first run. Each run trains for two steps and evaluates once.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.models.conventions import IMAGENET, TIMM, PretrainedConfig
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.weights.convert import variable_shapes
from mlcls_jax.models.weights.formats import SIDECAR
from mlcls_jax.models.weights.layouts import Path as Names
from mlcls_jax.models.weights.layouts import Shape
from mlcls_jax.models.weights.provenance import OWN, to_json
from mlcls_jax.models.weights.save import save_timm
from mlcls_jax.step.param_tree import unflatten

IMAGES, CLASSES, WIDTH, HEIGHT = 256, 20, 640, 480
OTHER = {"head": 1, "finetune": 0}  # index of the phase that does not run
# The line that training prints (mlcls_jax/training/timing.py).
FIRST_STEP = re.compile(r"first step done .* after the start \((?P<parts>.*)\)")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="b0", help="network with a file in configs/")
    parser.add_argument(
        "--phase", default="head", choices=OTHER, help="phase that the run starts in"
    )
    parser.add_argument("--warm", type=int, default=2, help="number of runs with a warm cache")
    options, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = write_weights(folder, options.variant)
        write_images(folder)
        for run in range(1 + options.warm):
            kind = "cold" if run == 0 else "warm"
            seconds, parts = measure(
                folder, command_of(folder, options, weights, f"run{run}") + overrides
            )
            print(f"{kind}: first step done {seconds:.1f} s after the command ({parts})")
    return 0


def write_images(folder: Path) -> None:
    """Writes labels.csv and JPEGs of blurred noise, which compresses like photographs."""
    rng = np.random.default_rng(0)
    labels = rng.random((IMAGES, CLASSES)) < 0.2
    lines = ["filename," + ",".join(f"class{i}" for i in range(CLASSES))]
    for number, row in enumerate(labels.astype(int)):
        noise = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)
        lines.append(f"{number}.jpg," + ",".join(map(str, row)))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def write_weights(folder: Path, variant: str) -> Path:
    """Writes a safetensors file with random weights, as `mlcls_jax.export` does."""
    rng, target = np.random.default_rng(0), folder / "weights"
    target.mkdir(exist_ok=True)
    shapes = variable_shapes(EfficientNet(variant=variant, num_classes=1000))
    variables = unflatten(
        {"/".join(path): _draw(rng, path, shape) for path, shape in shapes.items()}
    )
    path = save_timm(target, variables, variant)
    metadata = {
        "file": path.name,
        "variant": variant,
        "pretrained_config": to_json(PretrainedConfig(TIMM, IMAGENET)),
    }
    (target / SIDECAR).write_text(json.dumps({OWN: metadata}))
    return path


def _draw(rng: np.random.Generator, path: Names, shape: Shape) -> np.ndarray:
    if path[-1] == "kernel":
        return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
    return np.full(shape, path[-1] in ("scale", "var"), np.float32)


def command_of(folder: Path, options: argparse.Namespace, weights: Path, name: str) -> list[str]:
    """Returns the command for a run of two steps."""
    command = [sys.executable, "-m", "mlcls_jax.train"]
    command += ["--config", str(Path(__file__).parents[2] / f"configs/{options.variant}.py")]
    command += ["--workdir", str(folder / name)]
    command += [f"--config.data.csv={folder / 'labels.csv'}", f"--config.data.images={folder}"]
    command += [f"--config.model.weights={weights}"]
    command += [f"--config.phases[{OTHER[options.phase]}].duration=0 steps"]
    return [*command, f"--config.phases[{1 - OTHER[options.phase]}].duration=2 steps"]


def measure(folder: Path, command: list[str]) -> tuple[float, str]:
    """Returns the seconds from the command to the end of the first step, and what took them."""
    env = {**os.environ, "MLCLS_JAX_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    env["PYTHONDONTWRITEBYTECODE"] = ""  # after pip install, nobody compiles the imports again
    began, found, output = time.perf_counter(), None, ""
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    for line in process.stdout:
        output += line
        if match := FIRST_STEP.search(line):
            found = time.perf_counter() - began, match["parts"]
    if process.wait() or found is None:
        raise SystemExit(f"the run ended with {process.returncode}:\n{output}")
    return found


if __name__ == "__main__":
    sys.exit(main())
