"""The metadata of a checkpoint is checked before it is used."""

import pytest

from mlcls_jax.run.trained_model import check_metadata

METADATA = {
    "step": 4,
    "phase": "head",
    "classes": ["cat", "dog"],
    "base_rate": {"frequencies": [0.5, 0], "included_classes": [True, False]},
    "pretrained_config": {},
    "later": "fields of other modules and versions",
}


def test_valid_metadata_is_returned():
    assert check_metadata(METADATA, 4) == METADATA


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 5}, "it is of step 5"),
        ({"step": "4"}, '"step"'),
        ({"phase": None}, '"phase"'),
        ({"classes": []}, "has no class"),
        ({"classes": ["cat", "cat"]}, "has no class, or one twice"),
        ({"classes": ["cat", 3]}, '"classes"'),
        ({"classes": ["cat"]}, "not have one base rate for each class"),
        (
            {"base_rate": {"frequencies": [0.5, 2], "included_classes": [True, True]}},
            "not in [0,",
        ),
        (
            {"base_rate": {"frequencies": [0.5, float("nan")], "included_classes": [True, True]}},
            "not in [0,",
        ),
        ({"base_rate": {"frequencies": [0.5, 0.5]}}, '"base_rate.included_classes"'),
        ({"pretrained_config": 3}, '"pretrained_config"'),
    ],
)
def test_invalid_metadata_is_refused(change, words):
    with pytest.raises(ValueError, match="the metadata of checkpoint 4 is damaged") as caught:
        check_metadata(METADATA | change, 4)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", {}, [METADATA]])
def test_other_json_values_are_refused(value):
    with pytest.raises(ValueError, match="damaged"):
        check_metadata(value, 4)
