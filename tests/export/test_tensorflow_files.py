"""SavedModel and LiteRT files: the logits and probabilities of JAX, without this project."""

import numpy as np
import pytest
from export_cases import CASES, Written, predicted_elsewhere, small_variants
from scipy.special import expit

from mlcls_jax.export.tensorflow_files import save_tensorflow

pytestmark = pytest.mark.reference

PROGRAM = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
for folder in Path(sys.argv[1]).iterdir():
    images = np.load(folder / "images.npy")
    loaded = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    lite = tf.lite.Interpreter(str(folder / "model.tflite")).get_signature_runner()
    for name, predict in (("saved_model", loaded), ("tflite", lite)):
        for size, rows in (("one", 1), ("all", len(images))):
            given = images[:rows] if predict is lite else tf.constant(images[:rows])
            np.save(folder / f"{name}_{size}", predict(images=given)["probabilities"])
assert not any(name.startswith(("mlcls_jax", "flax")) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Returns the folder with the files of each case and their predictions in another process."""
    folder = tmp_path_factory.mktemp("tensorflow")
    for name, case in CASES.items():
        (folder / name).mkdir()
        with small_variants():
            written = Written(case)
            for lite in (False, True):
                save_tensorflow(folder / name, written.write, written.logits, written.shape, lite)
        np.save(folder / name / "images.npy", written.images)
        np.save(folder / name / "logits.npy", written.expected)
    predicted_elsewhere(PROGRAM, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["saved_model", "tflite"])
@pytest.mark.parametrize("name", CASES)
def test_the_file_gives_the_probabilities_of_jax(predicted, name, form):
    folder = predicted / name
    wanted = expit(np.load(folder / "logits.npy"))
    np.testing.assert_allclose(np.load(folder / f"{form}_all.npy"), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.load(folder / f"{form}_one.npy"), wanted[:1], rtol=0, atol=1e-5)
