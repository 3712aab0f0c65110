"""The Keras base has our weights and features; the mistakes have the documented effects."""

import dataclasses
import json
from itertools import pairwise

import compare
import numpy as np
import pytest
from compare import Epoch, curve_of, draw, markdown
from keras_model import SCRIPTS, TOLERANCE, build_base, build_classifier, largest_difference
from report_runs import a_record

from mlcls_jax.models.conventions import IMAGENET
from mlcls_jax.models.weights.load import load_pretrained

# Keras's variables have an __array__ from before NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
SIZE = 64


@pytest.fixture(scope="module")
def pretrained():
    return load_pretrained("imagenet", "lite0")


@pytest.fixture(scope="module")
def base(pretrained):
    return build_base(pretrained, SIZE)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)


@pytest.mark.reference
def test_the_base_gives_our_features(base, pretrained, images):
    assert largest_difference(base, pretrained, images) < TOLERANCE
    other = dataclasses.replace(pretrained, normalization=IMAGENET)
    assert largest_difference(base, other, images) > 100 * TOLERANCE


@pytest.mark.reference
def test_rescaling_twice_hides_the_images(base, images):
    """A base that divides by 255 again sees almost black images."""
    pixels = images.astype(np.float32)
    once, twice = (base(x, training=False).numpy() for x in (pixels, pixels / 255))
    assert twice.std(axis=0).mean() < 0.05 * once.std(axis=0).mean()


@pytest.mark.reference
def test_the_scripts_differ_in_one_repair_each(base):
    for before, after in pairwise(SCRIPTS):
        pairs = zip(dataclasses.astuple(before)[1:], dataclasses.astuple(after)[1:], strict=True)
        assert sum(a != b for a, b in pairs) == 1
    for script, inputs in ((SCRIPTS[0], 2 * 2 * 1280), (SCRIPTS[-1], 1280)):
        model = build_classifier(base, script, 5)
        assert [tuple(w.shape) for w in model.trainable_weights] == [(inputs, 5), (5,)]
        assert np.isclose(float(model.optimizer.learning_rate), script.learning_rate)


def test_our_curve_adds_up_the_seconds(tmp_path):
    val = {"loss": 0.4, "mAP": 0.3}
    lines = [
        json.dumps(a_record(n, 0.3) | {"epoch": n, "train_loss": 0.5, "val": val, "seconds": 30})
        for n in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found, expected = curve_of(tmp_path)[1], Epoch(compare.OURS, 2, 1.0, 0.5, 0.4, 0.3)
    # Not ==, because from Python 3.13 on a dataclass with a NaN does not equal itself.
    np.testing.assert_equal(dataclasses.asdict(found), dataclasses.asdict(expected))
    with pytest.raises(ValueError, match="has no evaluation; train first"):
        curve_of(tmp_path / "nowhere")


def test_table_and_figure(tmp_path):
    epochs = [
        Epoch("the script", 1, 0.5, 4.0, 5.0, 0.4, 0.1, 0.2),
        Epoch("the script", 2, 1.0, 3.0, 4.5, 0.3, 0.1, 0.15),
        Epoch(compare.OURS, 2, 1.0, 0.2, 0.25, 0.7),
    ]
    lines = markdown(epochs).splitlines()
    assert lines[2] == "| the script | 2 | 0.15 | 3.000 | 4.500 | 0.300 | 0.400 |"
    assert lines[3] == "| ours | 2 |  | 0.200 | 0.250 | 0.700 | 0.700 |"
    draw(epochs, {"mAP": 0.2, "loss": 0.3}, tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()
