"""What a checkpoint says of itself is believed only where it can be."""

import pytest

from mlcls_jax.run.trained_model import check_metadata

META = {
    "step": 4,
    "phase": "head",
    "classes": ["cat", "dog"],
    "base_rate": {"frequencies": [0.5, 0], "included_classes": [True, False]},
    "pretrained_config": {},
    "later": "fields of other modules and versions",
}


def test_what_a_run_writes_is_returned():
    assert check_metadata(META, 4) == META


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 5}, "it is of step 5"),
        ({"step": "4"}, '"step"'),
        ({"phase": None}, '"phase"'),
        ({"classes": []}, "names no class"),
        ({"classes": ["cat", "cat"]}, "names no class, or one twice"),
        ({"classes": ["cat", 3]}, '"classes"'),
        ({"classes": ["cat"]}, "not one for each class"),
        ({"base_rate": {"frequencies": [0.5, 2], "included_classes": [True, True]}}, "no share"),
        (
            {"base_rate": {"frequencies": [0.5, float("nan")], "included_classes": [True, True]}},
            "no share",
        ),
        ({"base_rate": {"frequencies": [0.5, 0.5]}}, '"base_rate.counted"'),
        ({"pretrained_config": 3}, '"origin"'),
    ],
)
def test_what_no_run_writes_is_refused(change, words):
    with pytest.raises(ValueError, match="the metadata of checkpoint 4 are damaged") as caught:
        check_metadata(META | change, 4)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", {}, [META]])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(ValueError, match="damaged"):
        check_metadata(value, 4)
