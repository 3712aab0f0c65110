"""Probabilities per class for images, from a trained run.

python -m mlcls_jax.predict --workdir runs/b5 photo.jpg
python -m mlcls_jax.predict --workdir runs/b5 photos/ --csv predictions.csv --labels decided.csv
python -m mlcls_jax.predict --workdir runs/b5 names.csv --images photos/ --csv predictions.csv
python -m mlcls_jax.predict --workdir runs/b5 photos/ --explain maps/

Which classes are said to be there is decided by the thresholds that were tuned on val.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax import cli
from mlcls_jax.config import Data
from mlcls_jax.data.loaders.threads import make_reader
from mlcls_jax.data.readers.unlabelled import images_in, listed_images
from mlcls_jax.evaluation.decision_rule import describe_thresholds, with_threshold
from mlcls_jax.evaluation.inference import predict_dataset
from mlcls_jax.explain.overlays import MAX_CLASSES, choose, write_overlays
from mlcls_jax.run.trained_model import (
    TrainedModel,
    describe_checkpoint,
    load_trained_model,
    uses_ema,
    write_predictions,
)
from mlcls_jax.run.tta import with_views
from mlcls_jax.run.workdir import read_config
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console, escaped
from mlcls_jax.system.files import check_new

SHOWN = 3  # classes per image on the terminal, where fewer are said to be there


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    options = parse(argv)
    distributed.start()
    names, paths = _images(options)
    for name in ("csv", "labels"):
        cli.check_folder(name, getattr(options, name))
    if options.explain:
        check_new(Path(options.explain))
    plain = load_trained_model(Path(options.workdir), options.checkpoint)
    run = with_views(plain, options.tta)
    check_outputs(options, run.config.data, names)
    if uses_ema(run.metadata):
        print(escaped(f"with the {describe_checkpoint(run.metadata)}"), file=sys.stderr)
    title = "" if options.json else "predict"
    config = _fitting(run, len(paths))
    # Here, and not by a share: which of a few images may be bad is for their owner to say.
    data = dataclasses.replace(config.data, max_bad_fraction=1.0)
    data = cli.with_on_bad_image(data, options.on_bad_image)
    reader = make_reader(data, len(paths))
    logits, readable = predict_dataset(
        run.predict, run.variables, paths, run.evaluation, run.mesh, reader, title
    )
    names = [name for name, good in zip(names, readable, strict=True) if good]
    for path, reason in reader.bad.reasons.items():
        print(escaped(f"{path} is left out: {reason}"), file=sys.stderr)
    if not names:
        raise ValueError("none of the images can be read")
    decision_rule = with_threshold(run.decision_rule, options.threshold)
    scores = decision_rule.probabilities(logits[readable])
    present = decision_rule.present(scores)
    print(describe_thresholds(decision_rule, options.threshold), file=sys.stderr)
    if options.csv:
        write_predictions(Path(options.csv), names, scores, run.classes)
    if options.labels:  # which may be trained on
        values = present.astype(np.int8)
        write_predictions(Path(options.labels), names, values, run.classes, exact=True)
    if options.explain:
        read = [path for path, good in zip(paths, readable, strict=True) if good]
        plain = dataclasses.replace(plain, config=_fitting(plain, len(read)))
        chosen = choose(scores, present)
        files = write_overlays(Path(options.explain), plain, read, names, chosen, reader)
        print(f"Written: {options.explain} ({files} maps)", file=sys.stderr)
    if options.json:
        rows = zip(names, scores, present, strict=True)
        print(json.dumps([as_json(*row, run.classes) for row in rows], indent=2))
    elif written := [file for file in (options.csv, options.labels) if file]:
        files = " and ".join(written)
        console.print(escaped(f"Written: {files} ({len(names)} images)"))
    else:
        for row in zip(names, scores, present, strict=True):
            console.print(escaped(describe_prediction(*row, run.classes)))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = cli.Parser(
        prog="python -m mlcls_jax.predict",
        description="Probabilities per class for images, from a trained run.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="images and folders of them; or one CSV with a column of file names",
    )
    parser.add_argument("--images", default="", help="folder of the CSV's images (default: its)")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    cli.add_tta(parser)
    cli.add_on_bad_image(parser)
    parser.add_argument("--csv", default="", help="write filename and one column per class here")
    parser.add_argument("--labels", default="", help="write 1 and 0 here, as a CSV of labels")
    parser.add_argument(
        "--explain",
        default="",
        metavar="FOLDER",
        help="write an image here per class that is there: where its evidence is (at most "
        f"{MAX_CLASSES} an image)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--threshold", type=float, help="probability for every class, in place of the tuned ones"
    )
    options = parser.parse_args(argv)
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        parser.error(f"--threshold {options.threshold}: it must be from 0 to 1")
    if options.csv and options.csv == options.labels:
        parser.error("--csv and --labels are two files; name another for one of them")
    return options


def check_outputs(options: argparse.Namespace, data: Data, names: Iterable[str] = ()) -> None:
    """ValueError where an option names a file that the run's labels are in: predictions would take
    the place of what somebody has looked at, and --csv is where `evaluate` reads labels from.
    Or where labels of these names could not be written so that they are found again."""
    theirs = (data.csv, data.val_csv, data.test_csv, data.categories, *options.inputs)
    read = {Path(file).resolve() for file in theirs if file and "://" not in file}
    for name in ("csv", "labels"):
        file = getattr(options, name)
        if file and Path(file).resolve() in read:
            raise ValueError(f"--{name} {file} is written to, and it is read as well; name another")
    for name in names if options.labels else ():
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"--labels: the file name {name!r} is no UTF-8; rename the image")


def find_images(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(names to report, paths to read) of files and of the images in folders, in input order.

    Images of a folder come sorted, subfolders included.  A single folder's images are named
    relative to it, as in a label CSV; everything else is named as given.

    Raises:
        ValueError: nothing there, or no image in a folder.
    """
    names: list[str] = []
    paths: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = images_in(path)
            alone = len(arguments) == 1
            names += [(file.relative_to(path) if alone else file).as_posix() for file in found]
            paths += map(str, found)
            ignored = sum(file.is_file() for file in path.rglob("*")) - len(found)
            if ignored:
                print(escaped(f"{argument}: {ignored} other files are left out"), file=sys.stderr)
        elif path.is_file():
            names.append(argument)
            paths.append(argument)
        else:
            raise ValueError(f"{argument}: no such file or folder")
    return names, paths


def as_json(
    name: str, probabilities: np.ndarray, present: np.ndarray, classes: tuple[str, ...]
) -> dict[str, Any]:
    """What is said of an image, JSON-ready: the classes that are there, and all probabilities."""
    return {
        "filename": name,
        "classes": [classes[c] for c in np.flatnonzero(present)],
        "probabilities": dict(zip(classes, map(float, probabilities), strict=True)),
    }


def describe_prediction(
    name: str, probabilities: np.ndarray, present: np.ndarray, classes: tuple[str, ...]
) -> str:
    """One line: the classes that are said to be there, and if they are fewer than SHOWN, others."""
    order = np.argsort(-probabilities, kind="stable")
    parts = [f"{classes[c]} {probabilities[c]:.2f}" for c in order]
    there = [part for part, c in zip(parts, order, strict=True) if present[c]]
    others = [part for part, c in zip(parts, order, strict=True) if not present[c]]
    others = others[: max(0, SHOWN - len(there))]
    below = f"; below threshold: {', '.join(others)}" if others else ""
    return f"{name}: {', '.join(there) or 'none'}{below}"


def _images(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """See find_images; or those that a CSV names, as the only argument."""
    first = options.inputs[0]
    if not (len(options.inputs) == 1 and first.lower().endswith(".csv")):
        if options.images:
            raise ValueError("--images is the folder of a single CSV of file names; leave it out")
        return find_images(options.inputs)
    column = read_config(Path(options.workdir)).data.filename_column
    return listed_images(first, options.images, column)


def _fitting(run: TrainedModel, images: int):
    """The config with a batch no larger than it takes: one image is no batch of 64."""
    count = jax.device_count()
    needed = -(-images // count) * count
    size = min(run.config.data.eval_batch_size, needed)
    return dataclasses.replace(
        run.config, data=dataclasses.replace(run.config.data, eval_batch_size=size)
    )


if __name__ == "__main__":
    cli.run(main)
