"""Makes a small run to keep, with what it predicts, for tests of later versions.

    python scripts/durability/make_old_checkpoint.py --out tests/old_checkpoint

tests/old_checkpoint/ was made by version 0.1.0, before checkpoints had a format number; what a
later version writes goes beside it, and never in its place.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.models.variants import VARIANTS, Variant
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.train import train

NAME, SIZE, IMAGES = "narrow", 32, 12
VARIANT = Variant(width=0.05, depth=0.3, image_size=SIZE, dropout=0.2)
KEPT = ("config.json", "classes.txt", "splits.csv", "metrics.jsonl", "checkpoints")


def main(argv: list[str]) -> int:
    """Trains for four steps in a folder of its own, and keeps what a restore needs."""
    parser = argparse.ArgumentParser(description="Makes a small run to keep.")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    out = parser.parse_args(argv).out.absolute()
    VARIANTS[NAME] = VARIANT
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that the config has no path of this machine
        make_images(Path("photos"))
        if train(make_config(), Path("run")):
            return 1
        run = load_trained_model(Path("run"), "latest")
        logits = np.asarray(run.predict(run.variables, random_images()))
        out.mkdir(parents=True)
        for name in KEPT:
            source = Path("run") / name
            if source.is_dir():  # without paths of this machine, which nothing reads
                unread = shutil.ignore_patterns("commit_success.txt")
                shutil.copytree(source, out / name, ignore=unread)
            else:
                shutil.copyfile(source, out / name)
        os.chdir(out)
    expected = {"step": run.metadata["step"], "logits": logits.tolist()}
    (out / "expected.json").write_text(json.dumps(expected) + "\n")
    return 0


def make_config() -> Config:
    """An averaged head, so that all items of a checkpoint are there."""
    return Config(
        data=Data(csv="photos/labels.csv", images="photos", batch_size=4, eval_batch_size=8),
        model=Model(variant=NAME, weights="", image_size=SIZE),
        phases=[Phase("head", "2 epochs", [Group("head/.*", 1e-2)], ema=0.5)],
    )


def make_images(folder: Path) -> None:
    """Noise with labels."""
    folder.mkdir()
    lines = ["filename,cat,dog"]
    for number, image in enumerate(random_images(IMAGES)):
        Image.fromarray(image).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{number % 2},{number % 3 // 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def random_images(count: int = 8) -> np.ndarray:
    """uint8 [count, SIZE, SIZE, 3], the same for the same count."""
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
