"""The diagnosis of runs that really learn: a linear head on features made for each case.

Scores and records are made as at the end of an epoch, so the curves are those of a model that
underfits, memorises, diverges or has converged, and not those that the rules expect.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from mlcls_jax.config import Group, Phase
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.diagnose import diagnose
from mlcls_jax.diagnosis.finding import Evidence, Labels
from mlcls_jax.evaluation.base_rate import base_rates, constant_scores, model_scores
from mlcls_jax.training.validation import sample_values

CLASSES, EPOCHS = 4, 12
PHASES = {
    0: Phase("head", "12 epochs", [Group("head/.*", 1e-2)]),
    1: Phase("tune", "12 epochs", [Group(".*", 1e-3)]),
}


def a_table(labels: np.ndarray, name: str) -> LabelTable:
    files = tuple(f"{name}{i}.jpg" for i in range(len(labels)))
    classes = tuple(f"class {c}" for c in range(labels.shape[1]))
    return LabelTable(Path("p"), files, labels.astype(np.int8), classes)


def learn(train, val, phase="tune", rate=0.3, steps=40, first=0):
    """Returns records, tables and the probabilities of val; train, val: features and labels.

    Gradient descent with momentum on the mean cross-entropy, starting at the class frequencies.
    """
    (x, y), (x_val, y_val) = train, val
    splits = {"train": a_table(y, "t"), "val": a_table(y_val, "v")}
    base = base_rates(splits, 1)
    constant = constant_scores(splits["val"], base).values
    weights = np.zeros((x.shape[1], y.shape[1]))
    bias = np.log(y.mean(axis=0) / (1 - y.mean(axis=0)))
    velocity, made, logits = np.zeros_like(weights), [], np.zeros_like(y_val, float)
    for epoch in range(EPOCHS):
        for _ in range(steps):
            velocity = 0.9 * velocity - rate * x.T @ (expit(x @ weights + bias) - y) / len(x)
            weights = weights + velocity
        logits = x_val @ weights + bias
        of_val = model_scores(splits["val"], logits, base)
        rows = np.arange(min(len(x), len(x_val)))
        of_train = model_scores(splits["train"].take(rows), x[rows] @ weights + bias, base)
        made.append(
            {
                "step": first + (epoch + 1) * steps,
                "epoch": epoch + 1.0,
                "phase": phase,
                "loss_name": "bce",
                "train_loss": of_train.values["loss"],
                "val": of_val.values,
                "base_rate": constant,
                "train_sample": sample_values(of_train, len(rows), of_val),
            }
        )
    return made, splits, expit(logits)


def diagnosed(made, splits, probabilities):
    val = splits["val"]
    labels = Labels(splits["train"], val, scored=(val, probabilities))
    return {f.kind: f for f in diagnose(Evidence(made, PHASES, labels=labels))}


def images(count, seed, dimensions=20, frequency=0.3, noise=1.0):
    """Features in which each class has a direction, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, CLASSES)) < frequency
    features = noise * rng.normal(size=(count, dimensions))
    features[:, :CLASSES] += 4.0 * labels
    return features - features.mean(axis=0), labels.astype(np.float64)


def test_a_run_that_learns_well():
    assert set(diagnosed(*learn(images(400, 1), images(300, 2)))) == {"nothing"}


def test_features_that_do_not_separate_the_classes():
    def hard(count, seed):
        x = np.random.default_rng(seed).normal(size=(count, 20))
        # The sign of a product, which no linear head can predict, and part of a sum.
        return x, (x[:, :4] * x[:, 4:8] + 0.6 * x[:, 8:12] > 0.7).astype(np.float64)

    found = diagnosed(*learn(hard(1000, 1), hard(1000, 2)))
    assert set(found) == {"underfitting"}
    assert "training longer will not be enough" in found["underfitting"].text


def test_a_run_that_memorises_its_images():
    train, val = (images(count, seed, 400, noise=2.0) for count, seed in ((120, 1), (600, 2)))
    found = diagnosed(*learn(train, val, steps=5))
    assert "overfitting" in found and "base rate" not in found
    assert "Overfitting" in found["overfitting"].text


def test_images_that_are_not_normalised():
    def raw(count, seed):
        x, y = images(count, seed)
        brightness = np.random.default_rng(seed).uniform(20, 235, (count, 1))
        return brightness * (1 + 0.002 * x), y

    found = diagnosed(*learn(raw(400, 1), raw(300, 2)))
    assert "base rate" in found and "overfitting" not in found
    assert "no better than the base rate" in found["base rate"].text


def test_a_frozen_backbone_that_is_then_trained():
    train, val = images(400, 1), images(300, 2)
    head, splits, probabilities = learn(
        *((x[:, :CLASSES] + 3 * x[:, CLASSES : 2 * CLASSES], y) for x, y in (train, val)), "head"
    )
    assert "ceiling" in diagnosed(head, splits, probabilities)
    tune, _, probabilities = learn(train, val, first=head[-1]["step"])
    found = diagnosed(head + tune, splits, probabilities)
    assert set(found) == {"fine-tuning"} and not found["fine-tuning"].next


def test_a_val_unlike_train():
    found = diagnosed(*learn(images(400, 1), images(300, 2, frequency=0.6)))
    assert "4 of 4 classes" in found["val unlike train"].text


@pytest.mark.parametrize(("share", "expected"), [(0.0, False), (0.05, True)])
def test_wrong_labels_are_reported(share, expected):
    (x, y), train = images(300, 2), images(400, 1)
    wrong = np.random.default_rng(3).random(y.shape) < share
    made, splits, probabilities = learn(train, (x, np.abs(y - wrong)))
    found = diagnosed(made, splits, probabilities)
    assert ("label noise" in found) == expected
    if expected:
        (count,) = [int(found["label noise"].text.split()[0])]
        assert 0.6 * wrong.sum() < count < 1.2 * wrong.sum()


def test_random_weights_under_frozen_batch_norm():
    """Random features of which little can be learnt: only their cause is named, not the effects."""

    def random_features(count, seed):
        x, y = images(count, seed, noise=6.0)
        mixed = x @ np.random.default_rng(0).normal(size=(20, 20))
        return np.maximum(mixed - 20, 0), y  # a layer that nothing has trained

    train, val = random_features(1000, 1), random_features(1000, 2)
    made, splits, probabilities = learn(train, val, rate=0.003)
    val_labels = Labels(splits["train"], splits["val"], scored=(splits["val"], probabilities))
    phases = {1: Phase("tune", "12 epochs", [Group(".*", 1e-3)], batch_norm="frozen")}
    found = {f.kind: f for f in diagnose(Evidence(made, phases, weights="", labels=val_labels))}
    assert set(found) == {"random weights"}
    assert "batch normalisation is frozen" in found["random weights"].text
    pretrained = Evidence(made, phases, weights="imagenet", labels=val_labels)
    assert {f.kind for f in diagnose(pretrained)} & {"underfitting", "base rate"}


def test_a_head_that_learns_and_a_phase_that_then_memorises():
    """Fine-tuning rises above the head, then falls: its gain and the fall don't contradict."""
    train, val = (images(count, seed, 400, noise=2.0) for count, seed in ((120, 1), (600, 2)))
    narrow = [(x[:, 3:5], y) for x, y in (train, val)]  # one class and some noise
    head, splits, _ = learn(*narrow, "head")
    tune, _, probabilities = learn(train, val, steps=5, first=head[-1]["step"])
    found = diagnosed(head + tune, splits, probabilities)
    assert set(found) == {"overfitting", "fine-tuning"} and not found["fine-tuning"].next


def test_a_curve_that_still_rises():
    """A run that was stopped early, with nothing wrong: no rule fires on a rising curve."""

    def with_nuisance(count, seed):
        x, y = images(count, seed)
        nuisance = 6 * np.random.default_rng(seed + 9).normal(size=(count, CLASSES))
        x[:, :CLASSES] += nuisance
        x[:, CLASSES : 2 * CLASSES] = nuisance  # subtracting it takes many steps to learn
        return x, y

    made, splits, probabilities = learn(
        with_nuisance(400, 1), with_nuisance(300, 2), rate=0.001, steps=6
    )
    values = [record["val"]["mAP"] for record in made]
    assert values == sorted(values) and values[-1] > values[-4] + 0.02
    assert set(diagnosed(made, splits, probabilities)) == {"nothing"}
