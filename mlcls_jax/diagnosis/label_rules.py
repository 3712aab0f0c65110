"""Rules for the labels: rare classes, a val unlike train, and labels that may be wrong."""

import numpy as np

from mlcls_jax.diagnosis.comparison import beats_base_rate
from mlcls_jax.diagnosis.finding import Evidence, Finding, first_names

FEW = 20  # positives of a class in train
CHANCE = 0.01  # p-value over all classes; below it, val differs from train


def val_unlike_train(evidence: Evidence) -> Finding | None:
    """Finds classes whose frequencies differ beyond chance between val and train.

    Fisher's exact test, two-sided, by the hypergeometric distribution of the positives of val
    among those of both splits, with Bonferroni's correction for the number of classes.
    """
    if evidence.labels is None or evidence.labels.out_of_fold:
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
    text = (
        f"{len(rare)} of {len(train.classes)} classes {'has' if len(rare) == 1 else 'have'} fewer "
        f"than {FEW} positives in train: {first_names(named)}. "
    )
    more = "more images of these classes"
    if evidence.min_positives >= FEW:
        text += (
            f"Classes with fewer than {evidence.min_positives} over all splits are in no average "
            "(evaluation.min_positives)."
        )
        return Finding("few positives", text, (more,))
    text += (
        "Their scores are mostly luck; evaluation.min_positives excludes them from the averages "
    )
    exclude = f"--config.evaluation.min_positives={FEW}"
    excluded = () if len(rare) == len(train.classes) else (exclude,)
    return Finding("few positives", text + "over classes.", (more, *excluded))


def label_noise(evidence: Evidence) -> Finding | None:
    """Finds labels that may be wrong, if there are more than hard images explain.

    A model whose probabilities are worse than the base rate cannot check labels at all.
    """
    if evidence.labels is None or evidence.labels.scored is None:
        return None
    if evidence.records and not beats_base_rate(evidence.records[-1]):
        return None
    table, _ = evidence.labels.scored
    found = evidence.labels.errors.suspects
    if not found:
        return None
    missing = sum(one.label == 0 for one in found)
    named = [
        f"{table.filenames[one.row]}: {table.classes[one.column]} is labelled {one.label}, "
        f"{one.probability:.2f} predicted"
        for one in found
    ]
    images = "the folds" if evidence.labels.out_of_fold else "val"
    few = (
        ""
        if evidence.labels.out_of_fold
        else ("; only val was checked, --folds 5 checks all images")
    )
    return Finding(
        "label noise",
        f"{len(found)} labels of {images} may be wrong, {missing} of 0 and {len(found) - missing} "
        f"of 1; about {sum(one.wrong for one in found):.0f} of them are. Their images look like "
        "those with the other label, and there are more of them than hard images explain "
        f"(docs/evaluation.md, Wrong labels): {first_names(named)}.",
        (
            "check these labels, the most probable ones in report.html; write 1, 0 or ? into the "
            "column corrected of label_suspects.csv in the workdir where they are wrong, and train "
            f"a new run with --config.data.corrections=FILE, where FILE is this list{few}",
            "--config.loss.label_smoothing=0.1",
        ),
    )
