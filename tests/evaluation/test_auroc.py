"""AUROC against scikit-learn, with ties, empty classes and unknown labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_labels import random_split
from sklearn.metrics import roc_auc_score

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.auroc import class_aurocs, macro_auroc, micro_auroc

ATOL = 1e-12  # means of at most 144 numbers up to 1


def two_sided(labels) -> bool:
    return {0, 1} <= set(labels.ravel().tolist())


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_each_class_equals_scikit_learn_on_its_known_labels(seed):
    labels, scores, included = random_split(seed)
    aurocs = class_aurocs(labels, scores, included)
    expected = []
    for c in range(labels.shape[1]):
        known = labels[:, c] != UNKNOWN
        if included[c] and two_sided(labels[known, c]):
            expected.append(roc_auc_score(labels[known, c], scores[known, c]))
            assert aurocs[c] == pytest.approx(expected[-1], abs=ATOL)
        else:
            assert np.isnan(aurocs[c])
    mean = np.mean(expected) if expected else float("nan")
    assert macro_auroc(aurocs) == pytest.approx(mean, abs=ATOL, nan_ok=True)
    known = (labels != UNKNOWN) & included
    if two_sided(labels[known]):
        expected = roc_auc_score(labels[known], scores[known])
        assert micro_auroc(labels, scores, included) == pytest.approx(expected, abs=ATOL)
    else:
        assert np.isnan(micro_auroc(labels, scores, included))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_averages_equal_scikit_learn_if_all_labels_are_known(seed):
    labels, scores, _ = random_split(seed)
    labels = np.abs(labels)
    both = np.array([two_sided(column) for column in labels.T])
    if both.sum() < 2:  # scikit-learn takes one column for a binary problem
        return
    aurocs = class_aurocs(labels, scores, both)
    expected = roc_auc_score(labels[:, both], scores[:, both], average="macro")
    assert macro_auroc(aurocs) == pytest.approx(expected, abs=ATOL)
    expected = roc_auc_score(labels[:, both], scores[:, both], average="micro")
    assert micro_auroc(labels, scores, both) == pytest.approx(expected, abs=ATOL)


def test_a_worked_example_with_unknown_labels():
    # cat: the positive 0.6 is above 0.3, level with 0.6, below 0.9: (1 + 1/2 + 0) / 3.
    # dog: no known negative.  Together: 0.6 and 0.2 against 0.3, 0.6 and 0.9: (1.5 + 0) / 6.
    labels = np.array([[1, 1], [0, UNKNOWN], [0, UNKNOWN], [0, UNKNOWN]], np.int8)
    scores = np.array([[0.6, 0.2], [0.3, 0.9], [0.6, 0.1], [0.9, 0.0]])
    included = np.array([True, True])
    np.testing.assert_array_equal(class_aurocs(labels, scores, included), [0.5, np.nan])
    assert macro_auroc(class_aurocs(labels, scores, included)) == 0.5
    assert micro_auroc(labels, scores, included) == 0.25
