"""Probabilities per class for pictures, from a trained run.

python -m mlcls_jax.predict --workdir runs/b5 photo.jpg
python -m mlcls_jax.predict --workdir runs/b5 photos/ --csv predictions.csv
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from mlcls_jax import cli, devices
from mlcls_jax.data.pipeline import make_reader
from mlcls_jax.metrics import THRESHOLD
from mlcls_jax.scoring import probabilities, score
from mlcls_jax.terminal import console
from mlcls_jax.tta import with_views
from mlcls_jax.workdir import Run, describe_checkpoint, is_averaged, load_run, write_predictions

EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
SHOWN = 3  # classes per picture on the terminal, where fewer are above the threshold


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    options = parse(argv)
    devices.start()
    names, paths = find_pictures(options.pictures)
    if options.csv and not Path(options.csv).absolute().parent.is_dir():
        raise ValueError(f"--csv {options.csv}: its folder does not exist; make it first")
    run = with_views(load_run(Path(options.workdir), options.checkpoint), options.tta)
    if is_averaged(run.meta):
        print(f"with the {describe_checkpoint(run.meta)}", file=sys.stderr)
    title = "" if options.json else "predict"
    config = _fitting(run, len(paths))
    # Here, and not by a share: which of a few pictures may be bad is for their owner to say.
    data = dataclasses.replace(config.data, max_bad_fraction=1.0)
    data = cli.with_on_bad_image(data, options.on_bad_image)
    reader = make_reader(data, len(paths))
    logits, readable = score(run.predict, run.variables, paths, config, run.mesh, reader, title)
    names = [name for name, good in zip(names, readable, strict=True) if good]
    for path, reason in reader.bad.reasons.items():
        print(f"{path} is left out: {reason}", file=sys.stderr)
    if not names:
        raise ValueError("none of the pictures can be read")
    scores = probabilities(logits[readable])
    if options.csv:
        write_predictions(Path(options.csv), names, scores, run.classes)
    if options.json:
        rows = [dict(zip(run.classes, map(float, row), strict=True)) for row in scores]
        pictures = [{"filename": n, "probabilities": r} for n, r in zip(names, rows, strict=True)]
        print(json.dumps(pictures, indent=2))
    elif options.csv:
        console.print(f"Written: {options.csv} ({len(names)} pictures)")
    else:
        for name, row in zip(names, scores, strict=True):
            console.print(describe(name, row, run.classes))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m mlcls_jax.predict",
        description="Probabilities per class for pictures, from a trained run.",
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE_OR_FOLDER")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    cli.add_tta(parser)
    cli.add_on_bad_image(parser)
    parser.add_argument("--csv", default="", help="write filename and one column per class here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def find_pictures(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(names to report, paths to read) of files and of the pictures in folders, in input order.

    Pictures of a folder come sorted, subfolders included.  A single folder's pictures are named
    relative to it, as in a label CSV; everything else is named as given.

    Raises:
        ValueError: nothing there, or no picture in a folder.
    """
    names: list[str] = []
    paths: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if _is_picture(file))
            if not found:
                endings = ", ".join(sorted(EXTENSIONS))
                raise ValueError(f"{argument} holds no picture ({endings})")
            alone = len(arguments) == 1
            names += [(file.relative_to(path) if alone else file).as_posix() for file in found]
            paths += map(str, found)
            ignored = sum(file.is_file() for file in path.rglob("*")) - len(found)
            if ignored:
                print(f"{argument}: {ignored} other files are left out", file=sys.stderr)
        elif path.is_file():
            names.append(argument)
            paths.append(argument)
        else:
            raise ValueError(f"{argument}: no such file or folder")
    return names, paths


def describe(name: str, probabilities: np.ndarray, classes: tuple[str, ...]) -> str:
    """One line: the classes above the threshold, at least the SHOWN most probable."""
    order = np.argsort(-probabilities, kind="stable")
    shown = max(SHOWN, int((probabilities >= THRESHOLD).sum()))
    parts = [f"{classes[c]} {probabilities[c]:.2f}" for c in order[:shown]]
    return f"{name}: {', '.join(parts)}"


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.is_file()


def _fitting(run: Run, pictures: int):
    """The config with a batch no larger than it takes: one picture is no batch of 64."""
    count = jax.device_count()
    needed = -(-pictures // count) * count
    size = min(run.config.data.eval_batch_size, needed)
    return dataclasses.replace(
        run.config, data=dataclasses.replace(run.config.data, eval_batch_size=size)
    )


if __name__ == "__main__":
    cli.run(main)
