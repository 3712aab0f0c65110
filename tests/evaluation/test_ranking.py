"""The order of images to label next."""

import numpy as np
import pytest

from mlcls_jax.evaluation.ranking import certainty


def test_an_image_at_a_threshold_is_uncertain_and_one_at_0_and_1_is_certain():
    probabilities = np.array([[0.0, 1.0], [0.2, 1.0], [0.0, 0.75], [0.6, 1.0]])
    assert certainty(probabilities, np.array([0.2, 0.5])) == pytest.approx([1, 0, 0.5, 0.5])


def test_the_distance_is_relative_to_the_side_of_the_threshold():
    values = certainty(np.array([[1.0, 0.0], [0.1, 0.0]]), np.array([0.2, 0.9]))
    assert values == pytest.approx([1, 0.5])


def test_extreme_thresholds_are_no_error():
    assert certainty(np.array([[0.5, 0.25]]), np.array([0.0, 1.0])) == pytest.approx([0.5])
