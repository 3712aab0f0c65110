"""Predicts the classes of images with a trained run.

mlcls-jax predict --workdir runs/b5 photo.jpg
mlcls-jax predict --workdir runs/b5 photos/ --csv predictions.csv --labels decided.csv
mlcls-jax predict --workdir runs/b5 names.csv --images photos/ --csv predictions.csv
mlcls-jax predict --workdir runs/b5 photos/ --explain maps/
mlcls-jax predict --workdir runs/b5 new/ --rank diverse --label-studio tasks.json

A class is predicted present when its probability reaches its threshold, which was tuned on val.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcls_jax.options.predict import (
    DISAGREEMENT,
    DIVERSE,
    FILES,
    check,
    check_new_files,
    parse,
)

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import numpy as np

from mlcls_jax import cli
from mlcls_jax.config import Data
from mlcls_jax.data.loaders.loader import Reader, make_reader
from mlcls_jax.evaluation.decision_rule import (
    DecisionRule,
    describe_thresholds,
    with_threshold,
)
from mlcls_jax.evaluation.ranking import certainty, disagreement, farthest_first
from mlcls_jax.explain.overlays import choose, write_overlays
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.embedding import embed_dataset, embedding_step
from mlcls_jax.run.fiftyone import classifications, write_classifications
from mlcls_jax.run.given_images import named_images
from mlcls_jax.run.label_studio import tasks, write_tasks
from mlcls_jax.run.trained_model import (
    TrainedModel,
    describe_checkpoint,
    load_trained_model,
    uses_ema,
    with_fitting_batch,
    write_predictions,
)
from mlcls_jax.run.tta import with_views
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console, escaped

SHOWN = 3  # smallest number of classes that the terminal shows per image


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is known of n images that can be read.

    Attributes:
        names: n file names, as they are printed.
        paths: n files.
        scores: probabilities, float [image, class].
        present: the classes that are predicted present, bool [image, class].
        certainties: from `certainty`, float [image].
    """

    names: list[str]
    paths: list[str]
    scores: np.ndarray
    present: np.ndarray
    certainties: np.ndarray

    def ordered(self, order: np.ndarray) -> "Predictions":
        """Returns the same images in another order: int [image]."""
        names, paths = ([entries[i] for i in order] for entries in (self.names, self.paths))
        arrays = (array[order] for array in (self.scores, self.present, self.certainties))
        return Predictions(names, paths, *arrays)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    distributed.start()
    names, paths = named_images(options.inputs, options.images, options.workdir)
    check_new_files(options)
    plain = load_trained_model(open_workdir(options.workdir), options.checkpoint)
    run = with_views(plain, options.tta)
    check_outputs(options, run.config.data, names)
    if options.rank == DIVERSE:
        embedding_step(plain)  # refuses networks without features before any image is read
    if uses_ema(run.metadata):
        print(escaped(f"using the {describe_checkpoint(run.metadata)}"), file=sys.stderr)
    # No limit on the share of bad images: the user chose the images, and may have chosen few.
    data = dataclasses.replace(run.config.data, max_bad_fraction=1.0)
    data = cli.with_on_bad_image(data, options.on_bad_image)
    reader = make_reader(data, run.network.in_channels, len(paths))
    decision_rule = with_threshold(run.decision_rule, options.threshold)
    found = predicted(run, decision_rule, names, paths, reader, "" if options.json else "predict")
    if options.rank:
        found = found.ordered(labelling_order(options, plain, found, reader))
    print(describe_thresholds(decision_rule, options.threshold), file=sys.stderr)
    write_outputs(options, found, plain, reader)
    print_result(options, found, run.classes)
    return 0


def predicted(
    run: TrainedModel,
    decision_rule: DecisionRule,
    names: list[str],
    paths: list[str],
    reader: Reader,
    title: str,
) -> Predictions:
    """Returns the predictions for the images that can be read, and says which cannot.

    Args:
        run: the trained model.
        decision_rule: that decides.
        names, paths: of the images.
        reader: reads them.
        title: of the progress bar; "" for none.

    Raises:
        ValueError: no image can be read.
    """
    logits, readable = run.outputs(paths, reader, title)
    for path, reason in reader.bad.reasons.items():
        print(escaped(f"{path} is skipped: {reason}"), file=sys.stderr)
    if not readable.any():
        raise ValueError("none of the images can be read")
    names, paths = (list(itertools.compress(entries, readable)) for entries in (names, paths))
    scores = decision_rule.probabilities(logits[readable])
    certainties = certainty(scores, np.array(decision_rule.thresholds))
    return Predictions(names, paths, scores, decision_rule.present(scores), certainties)


def write_outputs(
    options: argparse.Namespace, found: Predictions, run: TrainedModel, reader: Reader
) -> None:
    """Writes the files that the options name.

    Args:
        options: from `parse`.
        found: the predictions.
        run: the trained model, without views.
        reader: reads the images.

    Raises:
        ValueError: a file cannot be written.
    """
    names, paths, present = found.names, found.paths, found.present
    if options.csv:
        write_predictions(Path(options.csv), names, found.scores, run.classes)
    if options.labels:
        values = present.astype(np.int8)
        write_predictions(Path(options.labels), names, values, run.classes)
    if options.label_studio:
        content = tasks(names, paths, present, found.certainties, run.classes)
        write_tasks(Path(options.label_studio), content)
    if options.fiftyone:
        content = classifications(paths, found.scores, present, run.classes)
        write_classifications(Path(options.fiftyone), content)
    if options.explain:
        run, chosen = with_fitting_batch(run, len(paths)), choose(found.scores, present)
        files = write_overlays(Path(options.explain), run, paths, names, chosen, reader)
        print(f"Wrote {options.explain} ({files} maps)", file=sys.stderr)


def print_result(options: argparse.Namespace, found: Predictions, classes: tuple[str, ...]) -> None:
    """Prints JSON, the files that were written, or else a line for each image."""
    rows = zip(found.names, found.scores, found.present, strict=True)
    if options.json:
        print(json.dumps([as_json(*row, classes) for row in rows], indent=2))
    elif written := [file for file in _files(options) if file]:
        files = " and ".join(written)
        console.print(escaped(f"Wrote {files} ({len(found.names)} images)"))
    else:
        for row in rows:
            console.print(escaped(describe_prediction(*row, classes)))


def labelling_order(
    options: argparse.Namespace, run: TrainedModel, found: Predictions, reader: Reader
) -> np.ndarray:
    """Returns the order in which images are worth labelling, by --rank: int [image].

    Args:
        options: from `parse`.
        run: the trained model, without views.
        found: the predictions.
        reader: reads the images.

    Raises:
        ValueError: a run of --committee cannot be loaded, or has other classes.
    """
    if options.rank == DIVERSE:
        features, _ = embed_dataset(run, found.paths, reader, "" if options.json else "embed")
        return farthest_first(features, 1 - found.certainties)
    if options.rank == DISAGREEMENT:
        members = [found.scores]
        for workdir in options.committee:
            title = "" if options.json else Path(workdir).name
            members.append(_of_member(workdir, run.classes, found.paths, options, title))
        return np.argsort(-disagreement(np.stack(members)), kind="stable")
    return np.argsort(found.certainties, kind="stable")


def _of_member(
    workdir: str,
    classes: tuple[str, ...],
    paths: list[str],
    options: argparse.Namespace,
    title: str,
) -> np.ndarray:
    """Returns the probabilities of a run of --committee, [image, class], in the order of classes.

    Images that this run cannot read are errors, because --workdir has read them.
    """
    run = load_trained_model(open_workdir(workdir), "best")
    if sorted(run.classes) != sorted(classes):
        raise ValueError(
            f"--committee {workdir} has other classes than --workdir; name runs of the same classes"
        )
    run = with_views(run, options.tta)
    reader = make_reader(run.config.data, run.network.in_channels, len(paths))
    logits, _ = run.outputs(paths, reader, title)
    scores = run.decision_rule.probabilities(logits)
    return scores[:, [run.classes.index(name) for name in classes]]


def _files(options: argparse.Namespace) -> tuple[str, ...]:
    """Returns the files that the options name; "" for none."""
    return options.csv, options.labels, options.label_studio, options.fiftyone


def check_outputs(options: argparse.Namespace, data: Data, names: Iterable[str] = ()) -> None:
    """Checks that no output file would overwrite an input file.

    Without this check, predictions could replace labels that people made: `evaluate` reads labels
    from its --csv, where predict writes predictions to its own.

    Args:
        options: from `parse`.
        data: section of the run's config.
        names: file names that --labels will hold.

    Raises:
        ValueError: an output is an input as well, or --labels cannot hold a file name.
    """
    inputs = (
        data.csv,
        data.val_csv,
        data.test_csv,
        data.categories,
        data.class_names,
        *options.inputs,
    )
    input_paths = {Path(file).resolve() for file in inputs if file and "://" not in file}
    for name in FILES:
        file = getattr(options, name)
        if file and Path(file).resolve() in input_paths:
            raise ValueError(
                f"--{name.replace('_', '-')} {file} would overwrite an input of this command or of "
                "the run; choose another file"
            )
    for name in names if options.labels else ():
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"--labels: the name {name!r} is not valid UTF-8; rename the image")


def as_json(
    name: str, probabilities: np.ndarray, present: np.ndarray, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Returns the prediction for an image, JSON-ready.

    Args:
        name: file name of the image.
        probabilities: float [class].
        present: bool [class], True for the classes that are predicted present.
        classes: class names.

    Returns:
        The file name, the names of the predicted classes, and the probability of every class.
    """
    return {
        "filename": name,
        "classes": [classes[c] for c in np.flatnonzero(present)],
        "probabilities": dict(zip(classes, map(float, probabilities), strict=True)),
    }


def describe_prediction(
    name: str, probabilities: np.ndarray, present: np.ndarray, classes: tuple[str, ...]
) -> str:
    """Returns the prediction for an image as one line.

    It has all predicted classes and, if they are fewer than SHOWN, the most probable others.

    Args: see `as_json`.
    """
    order = np.argsort(-probabilities, kind="stable")
    parts = [f"{classes[c]} {probabilities[c]:.2f}" for c in order]
    predicted = [part for part, c in zip(parts, order, strict=True) if present[c]]
    others = [part for part, c in zip(parts, order, strict=True) if not present[c]]
    others = others[: max(0, SHOWN - len(predicted))]
    below = f"; below threshold: {', '.join(others)}" if others else ""
    return f"{name}: {', '.join(predicted) or 'none'}{below}"


if __name__ == "__main__":
    cli.run(main)
