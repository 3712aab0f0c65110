"""What the labels say: rare classes, a val unlike train, and labels that may be wrong."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8

from mlcls_jax.config import Config
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.diagnosis.finding import Finding, some

LEAST_POSITIVES = 5  # a mean over fewer says little
# Mean probability of positives less that of negatives, Tjur's coefficient of discrimination
# (2009): below it, the model does not know the class.
KNOWN = 0.3


@dataclass(frozen=True)
class Suspect:
    """A label that the model contradicts with as much confidence as it has where it is right.

    row, column: of the image and of the class.
    label: 1 or 0, as given.
    probability: of the class.
    """

    row: int
    column: int
    label: int
    probability: float


def suspects(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> list[Suspect]:
    """Labels off the diagonal of the confident joint, those that are contradicted most first.

    A label counts as the other one where the probability of the other one reaches the mean that it
    has on the images labelled so (the thresholds t_j of the paper, equation 2), and that of its
    own does not reach its mean.  Classes with few positives, or that the model does not know,
    have no suspects.

    Args:
        labels: 1, 0 or UNKNOWN.
        probabilities: out of sample.
    """
    found = []
    for column in range(labels.shape[1]):
        label, p = labels[:, column], probabilities[:, column].astype(np.float64)
        positive, negative = label == 1, label == 0
        if positive.sum() < LEAST_POSITIVES or not negative.any():
            continue
        there, absent = p[positive].mean(), (1 - p[negative]).mean()
        if there + absent - 1 < KNOWN:
            continue
        as_there, as_absent = p >= there, 1 - p >= absent
        wrong = (label != UNKNOWN) & np.where(
            positive, as_absent & ~as_there, as_there & ~as_absent
        )
        for row in np.flatnonzero(wrong):
            found.append(Suspect(int(row), column, int(label[row]), float(p[row])))
    return sorted(found, key=lambda one: -abs(one.label - one.probability))


FEW = 20  # positives in train
NOISE = 0.02  # suspects as a share of the positives of val
CHANCE = 0.01  # probability that any class's difference between val and train is drawn by chance


def unlike(config: Config, train: LabelTable, val: LabelTable) -> list[Finding]:
    """Classes whose frequencies differ beyond chance between val and train.

    By the hypergeometric distribution of the positives of val among those of both, Fisher's exact
    test, two-sided, with Bonferroni's correction for the number of classes.
    """
    from scipy.stats import hypergeom  # half a second, after the first steps

    positives, known = train.positives + val.positives, train.known + val.known
    drawn = hypergeom(known, positives, val.known)
    tails = np.minimum(drawn.cdf(val.positives), drawn.sf(val.positives - 1))
    p = np.where(positives > 0, np.minimum(2 * tails, 1.0), 1.0) * len(train.classes)
    different = sorted((c for c in np.flatnonzero(p < CHANCE)), key=lambda c: p[c])
    if not different:
        return []
    named = [
        f"{train.classes[c]} ({train.frequencies[c]:.1%} of train, {val.frequencies[c]:.1%} of val)"
        for c in different
    ]
    own = config.data.val_csv or (train.splits is not None)
    advice = (
        "draw val from the same images: leave out data.val_csv and the split column "
        "(--config.data.val_csv= --config.data.split_column=)"
        if own
        else "--config.data.split_seed=43"
    )
    return [
        Finding(
            "val unlike train",
            f"Val is unlike train: {len(different)} of {len(train.classes)} classes have another "
            f"frequency than chance explains (Fisher's exact test, p < {CHANCE:g} over all "
            f"classes): {some(named)}. Scores on val say little of images like those of train.",
            (advice,),
        )
    ]


def few_positives(train: LabelTable) -> list[Finding]:
    """Classes that few training images show."""
    rare = [
        (int(count), name)
        for count, name in zip(train.positives, train.classes, strict=True)
        if count < FEW
    ]
    if not rare:
        return []
    named = [f"{name} ({count})" for count, name in sorted(rare)]
    leave_out = f"--config.evaluation.min_positives={FEW}"
    return [
        Finding(
            "few positives",
            f"{len(rare)} of {len(train.classes)} classes have fewer than {FEW} positives in "
            f"train: {some(named)}. Their scores are "
            "mostly luck; min_positives leaves them out of the means.",
            (
                "more images of these classes",
                *([] if len(rare) == len(train.classes) else [leave_out]),
                "--config.loss.pos_weight=auto",
            ),
        )
    ]


def label_noise(table: LabelTable, probabilities: np.ndarray) -> list[Finding]:
    """Labels of val that the model contradicts, where they are many.

    One evaluation cannot tell wrong labels from images that the model finds hard.
    """
    found, positives = suspects(table.labels, probabilities), int(table.positives.sum())
    if len(found) < NOISE * positives or not found:
        return []
    missing = sum(one.label == 0 for one in found)
    named = [
        f"{table.filenames[one.row]}: {table.classes[one.column]} is labelled {one.label}, "
        f"{one.probability:.2f} predicted"
        for one in found
    ]
    return [
        Finding(
            "label noise",
            f"{len(found)} labels of val contradict a model that is as sure as where it is right, "
            f"{len(found) / positives:.1%} of the {positives} positives (told from {NOISE:.0%} on):"
            f" {missing} that say 0, {len(found) - missing} that say 1. They are wrong, or these "
            f"images are hard for it. By confident learning (arXiv:1911.00068): {some(named)}.",
            (
                "look at them, the surest are in report.html, and mend the CSV where it is wrong",
                "--config.loss.label_smoothing=0.1",
            ),
        )
    ]
