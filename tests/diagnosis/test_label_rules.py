"""Labels that a model confidently contradicts."""

import numpy as np

from mlcls_jax.diagnosis.label_rules import Suspect, suspects


def confident(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities of a model that predicts all labels right."""
    rng = np.random.default_rng(seed)
    return np.where(
        labels == 1, rng.uniform(0.8, 1, labels.shape), rng.uniform(0, 0.2, labels.shape)
    )


def test_flipped_labels_are_found_and_no_others():
    rng = np.random.default_rng(1)
    truth = (rng.random((200, 3)) < 0.3).astype(np.int8)
    probabilities = confident(truth)
    wrong = [(3, 0), (50, 1), (120, 2), (121, 2)]
    given = truth.copy()
    for cell in wrong:
        given[cell] = 1 - given[cell]
        probabilities[cell] = 0.99 if truth[cell] else 0.01  # as confident as elsewhere
    found = suspects(given, probabilities)
    assert {(one.row, one.column) for one in found} == set(wrong)
    assert all(one.label == given[one.row, one.column] for one in found)
    differences = [abs(one.label - one.probability) for one in found]
    assert differences == sorted(differences, reverse=True)


def test_the_thresholds_are_the_means_of_the_paper():
    labels = np.array([[1]] * 5 + [[0]] * 5, np.int8)
    p = np.array([0.9, 0.9, 0.9, 0.9, 0.4, 0.1, 0.1, 0.1, 0.1, 0.8])[:, None]
    # The means are 0.8 for positives and 0.76 for negatives.  The last image reaches 0.8; the
    # fifth, with 0.6 for absence, does not reach 0.76.
    assert suspects(labels, p) == [Suspect(9, 0, 0, 0.8)]


def test_unknown_labels_rare_classes_and_unknown_classes_have_none():
    labels = np.array([[1]] * 5 + [[0]] * 5, np.int8)
    sure = np.array([0.9] * 5 + [0.1] * 4 + [0.99])[:, None]
    assert suspects(labels, sure)
    unknown = labels.copy()
    unknown[9] = -1
    assert not suspects(unknown, sure)
    assert not suspects(labels[1:], sure[1:])  # four positives
    assert not suspects(labels, sure / 4)  # on average 0.16 apart: an unknown class
    assert not suspects(labels[:5], sure[:5])  # no negatives
