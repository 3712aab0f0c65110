"""The base rate of the classes, and scores next to it."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.evaluation.base_rate import base_rates, constant_scores, model_scores, sample_rows


def table(rows) -> LabelTable:
    labels = np.array(rows, np.int8)
    names = tuple(f"{i}.jpg" for i in range(len(labels)))
    return LabelTable(Path("p"), names, labels, tuple("abcde"[: labels.shape[1]]))


def test_frequencies_are_of_the_known_training_labels_and_counts_of_all_splits():
    splits = {
        "train": table([[1, 0, UNKNOWN, 0], [0, 0, UNKNOWN, 1], [UNKNOWN, 1, UNKNOWN, 1]]),
        "val": table([[1, 1, 0, 0]]),
        "test": table([[0, 1, 1, UNKNOWN]]),
    }
    base = base_rates(splits, min_positives=3)
    assert base.frequencies == (1 / 2, 1 / 3, 0.0, 2 / 3)
    assert base.included_classes == (False, True, False, False)
    assert base_rates(splits, 2).included_classes == (True, True, False, True)
    assert base_rates(splits, 1).included_classes == (True, True, True, True)


def test_nothing_to_measure_in_val_is_refused():
    splits = {"train": table([[1, 0], [1, 1]]), "val": table([[0, 0], [0, -1]])}
    with pytest.raises(ValueError, match="nothing can be measured"):
        base_rates(splits, 1)


def test_labels_that_are_all_positive_are_refused():
    splits = {"train": table([[1, 0], [1, 1]]), "val": table([[1, 1], [1, -1]])}
    with pytest.raises(ValueError, match="no class has a negative label in val"):
        base_rates(splits, 1)


def test_an_auroc_that_no_class_has_cannot_decide_the_best_evaluation():
    val = table([[1, 0], [1, 0], [UNKNOWN, 0]])
    splits = {"train": table([[1, 0], [0, 1]]), "val": val}
    base_rates(splits, 1)
    with pytest.raises(ValueError, match=r"evaluation\.best is AUROC, but no class"):
        base_rates(splits, 1, "AUROC")


def test_the_base_rate_survives_json():
    base = base_rates(dict.fromkeys(["train", "val"], table([[1, 0], [1, 1]])), 1)
    fields = {"frequencies": base.frequencies, "included_classes": base.included_classes}
    assert json.loads(json.dumps(fields)) == {
        "frequencies": [1.0, 0.5],
        "included_classes": [True, True],
    }


def test_constant_scores_are_those_of_a_model_that_knows_only_the_frequencies():
    splits = {
        "train": table([[1, 0, 1], [0, 1, 1], [0, 0, 0]]),
        "val": table([[1, 0, UNKNOWN], [0, 1, 0]]),
    }
    base = base_rates(splits, min_positives=1)
    constant = constant_scores(splits["val"], base)
    model = model_scores(splits["val"], logit(np.tile(base.frequencies, (2, 1))), base)
    assert constant.values == pytest.approx(model.values)
    assert constant.values["mAP"] == 0.5
    assert constant.excluded_classes == model.excluded_classes == ["c"]


def test_a_class_with_too_few_positives_is_excluded():
    splits = {"train": table([[1, 1], [0, 1]]), "val": table([[1, 1], [0, 0]])}
    base = base_rates(splits, min_positives=3)
    assert model_scores(splits["val"], np.zeros((2, 2)), base).excluded_classes == ["a"]
    assert constant_scores(splits["val"], base).excluded_classes == ["a"]


def test_the_sample_is_always_the_same_one_and_no_larger_than_val():
    splits = {"train": table([[1]] * 50), "val": table([[1]] * 20)}
    rows = sample_rows(splits, 12, seed=3)
    assert len(set(rows)) == 12 and rows.min() >= 0 and rows.max() < 50
    np.testing.assert_array_equal(rows, sample_rows(splits, 12, seed=3))
    np.testing.assert_array_equal(rows, np.sort(rows))
    assert set(rows) != set(sample_rows(splits, 12, seed=4))
    assert len(sample_rows(splits, 500, seed=3)) == 20
    assert not len(sample_rows(splits, 0, seed=3))
    few = {"train": table([[1]] * 5), "val": table([[1]] * 20)}
    np.testing.assert_array_equal(sample_rows(few, 500, seed=3), range(5))
