"""The diagnosis of runs that really learn: a linear head on features that are made for each case.

Scores and records are made as at the end of an epoch, so that the curves are those of a model that
underfits, remembers, diverges or has nothing left to learn, and not what the rules expect of one.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from mlcls_jax.config import Config, Group, Phase
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.diagnose import diagnose
from mlcls_jax.evaluation.base_rate import base_rate, constant_scores, model_scores
from mlcls_jax.training.validation import sample_values

CLASSES, EPOCHS = 4, 12
CONFIG = Config(
    phases=[
        Phase("head", "12 epochs", [Group("head/.*", 1e-2)]),
        Phase("tune", "12 epochs", [Group(".*", 1e-3)]),
    ]
)


def a_table(labels: np.ndarray, name: str) -> LabelTable:
    files = tuple(f"{name}{number}.jpg" for number in range(len(labels)))
    classes = tuple(f"class {c}" for c in range(labels.shape[1]))
    return LabelTable(Path("p"), files, labels.astype(np.int8), classes)


def learn(train, val, phase="tune", rate=0.3, steps=40, first=0):
    """Records, tables and the probabilities of val; train, val: features and labels.

    Gradient descent on the mean cross-entropy, with momentum, from the class frequencies on.
    """
    (x, y), (x_val, y_val) = train, val
    splits = {"train": a_table(y, "t"), "val": a_table(y_val, "v")}
    base = base_rate(splits, 1)
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
    return {f.kind: f for f in diagnose(CONFIG, made, splits["train"], val, (val, probabilities))}


def images(count, seed, dimensions=20, frequency=0.3, noise=1.0):
    """Features in which each class has a direction, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, CLASSES)) < frequency
    features = noise * rng.normal(size=(count, dimensions))
    features[:, :CLASSES] += 4.0 * labels
    return features - features.mean(axis=0), labels.astype(np.float64)


def test_one_that_learns_well():
    assert set(diagnosed(*learn(images(400, 1), images(300, 2)))) == {"nothing"}


def test_one_whose_features_do_not_tell_its_classes():
    def hard(count, seed):
        x = np.random.default_rng(seed).normal(size=(count, 20))
        # The sign of a product, which no linear head can tell, and a little of a sum.
        return x, (x[:, :4] * x[:, 4:8] + 0.6 * x[:, 8:12] > 0.7).astype(np.float64)

    found = diagnosed(*learn(hard(1000, 1), hard(1000, 2)))
    assert set(found) == {"underfitting"}
    assert "longer alone will not do" in found["underfitting"].text


def test_one_that_remembers_its_images():
    train, val = (images(count, seed, 400, noise=2.0) for count, seed in ((120, 1), (600, 2)))
    found = diagnosed(*learn(train, val, steps=5))
    assert "overfitting" in found and "base rate" not in found
    assert "Overfitting" in found["overfitting"].text


def test_one_whose_images_are_not_normalised():
    def raw(count, seed):
        x, y = images(count, seed)
        brightness = np.random.default_rng(seed).uniform(20, 235, (count, 1))
        return brightness * (1 + 0.002 * x), y

    found = diagnosed(*learn(raw(400, 1), raw(300, 2)))
    assert "base rate" in found and "overfitting" not in found
    assert found["base rate"].text.startswith("Worse than the base rate")


def test_one_whose_backbone_is_frozen_and_then_is_not():
    train, val = images(400, 1), images(300, 2)
    head, splits, probabilities = learn(
        *((x[:, :CLASSES] + 3 * x[:, CLASSES : 2 * CLASSES], y) for x, y in (train, val)), "head"
    )
    assert "ceiling" in diagnosed(head, splits, probabilities)
    tune, _, probabilities = learn(train, val, first=head[-1]["step"])
    found = diagnosed(head + tune, splits, probabilities)
    assert set(found) == {"fine-tuning"} and not found["fine-tuning"].next


def test_one_whose_val_is_of_another_kind():
    found = diagnosed(*learn(images(400, 1), images(300, 2, frequency=0.6)))
    assert "4 of 4 classes" in found["val unlike train"].text


@pytest.mark.parametrize(("share", "told"), [(0.0, False), (0.05, True)])
def test_one_whose_labels_are_wrong(share, told):
    (x, y), train = images(300, 2), images(400, 1)
    wrong = np.random.default_rng(3).random(y.shape) < share
    made, splits, probabilities = learn(train, (x, np.abs(y - wrong)))
    found = diagnosed(made, splits, probabilities)
    assert ("label noise" in found) == told
    if told:
        (count,) = [int(found["label noise"].text.split()[0])]
        assert 0.6 * wrong.sum() < count < 1.2 * wrong.sum()
