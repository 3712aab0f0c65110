"""Rules for the labels: rare classes, a val unlike train, and labels that may be wrong."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.diagnosis.comparison import beats_base_rate
from mlcls_jax.diagnosis.finding import Evidence, Finding, first_names

FEW = 20  # positives of a class in train
NOISE = 0.02  # contradicted labels as a share of the positives of val
CHANCE = 0.01  # p-value over all classes; below it, val differs from train
MIN_POSITIVES = 5  # of a class: a mean probability over fewer is too noisy
# Mean probability of positives minus that of negatives (Tjur's coefficient of discrimination,
# 2009): below it, the model does not know the class.
KNOWN = 0.3


def val_unlike_train(evidence: Evidence) -> Finding | None:
    """Finds classes whose frequencies differ beyond chance between val and train.

    Fisher's exact test, two-sided, by the hypergeometric distribution of the positives of val
    among those of both splits, with Bonferroni's correction for the number of classes.
    """
    if evidence.labels is None:
        return None
    from scipy.stats import hypergeom  # takes half a second, so not before the first steps

    train, val = evidence.labels.train, evidence.labels.val
    positives, known = train.positives + val.positives, train.known + val.known
    drawn = hypergeom(known, positives, val.known)
    tails = np.minimum(drawn.cdf(val.positives), drawn.sf(val.positives - 1))
    p = np.where(positives > 0, np.minimum(2 * tails, 1.0), 1.0) * len(train.classes)
    different = sorted((c for c in np.flatnonzero(p < CHANCE)), key=lambda c: p[c])
    if not different:
        return None
    named = [
        f"{train.classes[c]} ({train.frequencies[c]:.1%} of train, {val.frequencies[c]:.1%} of val)"
        for c in different
    ]
    text = (
        f"Val differs from train: the frequencies of {len(different)} of {len(train.classes)} "
        f"classes differ more than by chance (Fisher's exact test, p < {CHANCE:g} over all "
        f"classes): {first_names(named)}. Scores on val say little about images like those of "
        "train."
    )
    if evidence.labels.separate_val or train.splits is not None:
        return Finding(
            "val unlike train",
            text,
            (
                "draw val from the same images: set neither data.val_csv nor data.split_column "
                "(--config.data.val_csv= --config.data.split_column=)",
            ),
        )
    return Finding("val unlike train", text, ("--config.data.split_seed=43",))


def few_positives(evidence: Evidence) -> Finding | None:
    """Finds classes with few positive training images."""
    if evidence.labels is None:
        return None
    train = evidence.labels.train
    counts = zip(train.positives, train.classes, strict=True)
    rare = sorted((int(count), name) for count, name in counts if count < FEW)
    if not rare:
        return None
    named = [f"{name} ({count})" for count, name in rare]
    exclude = f"--config.evaluation.min_positives={FEW}"
    return Finding(
        "few positives",
        f"{len(rare)} of {len(train.classes)} classes have fewer than {FEW} positives in "
        f"train: {first_names(named)}. Their scores are mostly luck; evaluation.min_positives "
        "excludes them from the averages over classes.",
        (
            "more images of these classes",
            *([] if len(rare) == len(train.classes) else [exclude]),
            "--config.loss.pos_weight=auto",
        ),
    )


def label_noise(evidence: Evidence) -> Finding | None:
    """Finds val labels that the model contradicts, if there are many.

    One evaluation cannot tell wrong labels from images that are hard for the model.  A model whose
    probabilities are worse than the base rate cannot check labels at all.
    """
    if evidence.labels is None or evidence.labels.scored is None:
        return None
    if evidence.records and not beats_base_rate(evidence.records[-1]):
        return None
    table, probabilities = evidence.labels.scored
    found, positives = suspects(table.labels, probabilities), int(table.positives.sum())
    if len(found) < NOISE * positives or not found:
        return None
    missing = sum(one.label == 0 for one in found)
    named = [
        f"{table.filenames[one.row]}: {table.classes[one.column]} is labelled {one.label}, "
        f"{one.probability:.2f} predicted"
        for one in found
    ]
    return Finding(
        "label noise",
        f"{len(found)} labels of val contradict a model that is as confident there as where it is "
        f"right: {len(found) / positives:.1%} of the {positives} positives (reported from "
        f"{NOISE:.0%}). Of these labels, {missing} are 0 and {len(found) - missing} are 1. Either "
        "they are wrong, or these images are hard for the model. Found by confident learning "
        f"(arXiv:1911.00068): {first_names(named)}.",
        (
            "check these labels, the most confident ones in report.html, and correct the CSV if "
            "they are wrong",
            "--config.loss.label_smoothing=0.1",
        ),
    )


@dataclass(frozen=True)
class Suspect:
    """A label that the model contradicts as confidently as it predicts the right ones.

    Attributes:
        row, column: of the image and of the class.
        label: 1 or 0, as given.
        probability: predicted probability of the class.
    """

    row: int
    column: int
    label: int
    probability: float


def suspects(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> list[Suspect]:
    """Returns labels off the diagonal of the confident joint, the most contradicted first.

    A label is suspect if the probability of the other label reaches its mean over the images with
    that other label (the thresholds t_j of arXiv:1911.00068, equation 2), and the probability of
    the given label does not reach its own mean.  Classes with few positives, and classes that the
    model does not know, have no suspects.

    Args:
        labels: int8 [image, class]: 1, 0 or UNKNOWN.
        probabilities: float [image, class], of images that the model was not trained on.
    """
    found = []
    for column in range(labels.shape[1]):
        label, p = labels[:, column], probabilities[:, column].astype(np.float64)
        positive, negative = label == 1, label == 0
        if positive.sum() < MIN_POSITIVES or not negative.any():
            continue
        mean_present, mean_absent = p[positive].mean(), (1 - p[negative]).mean()
        if mean_present + mean_absent - 1 < KNOWN:
            continue
        as_present, as_absent = p >= mean_present, 1 - p >= mean_absent
        contradicted = np.where(positive, as_absent & ~as_present, as_present & ~as_absent)
        for row in np.flatnonzero((label != UNKNOWN) & contradicted):
            found.append(Suspect(int(row), column, int(label[row]), float(p[row])))
    return sorted(found, key=lambda one: -abs(one.label - one.probability))
