"""ONNX files: the probabilities of JAX, in a process that has nothing of this project."""

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from export_cases import CASES, Written, predicted_elsewhere, small_variants
from scipy.special import expit

from mlcls_jax.export import onnx_file, portable

PROGRAM = """
import sys
from pathlib import Path
import numpy as np, onnxruntime
for folder in Path(sys.argv[1]).iterdir():
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    images = np.load(folder / "images.npy")
    for name, rows in (("one", 1), ("all", len(images))):
        (found,) = session.run(None, {"images": images[:rows]})
        np.save(folder / name, found)
assert not any(name.startswith(("mlcls_jax", "jax", "flax")) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Returns the folder with the file of each case and its predictions in another process."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    for name, case in CASES.items():
        (folder / name).mkdir()
        with small_variants():
            written = Written(case)
            onnx_file.save_onnx(
                folder / name, written.write, written.logits, written.shape, case.classes
            )
        np.save(folder / name / "images.npy", written.images)
        np.save(folder / name / "logits.npy", written.expected)
    predicted_elsewhere(PROGRAM, folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_file_gives_the_probabilities_of_jax(predicted, name):
    folder = predicted / name
    logits = np.load(folder / "logits.npy")
    assert logits.shape == (3, CASES[name].classes) and np.ptp(logits) > 0.01
    np.testing.assert_allclose(np.load(folder / "all.npy"), expit(logits), rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.load(folder / "one.npy"), expit(logits[:1]), rtol=0, atol=1e-5)


def test_the_fine_tuned_case_is_confident(predicted):
    logits = np.load(predicted / "fine-tuned/logits.npy")
    assert np.abs(logits).max() > 15  # the probabilities alone would show little


@pytest.mark.parametrize("name", ["frozen", "ml-decoder"])
def test_the_file_has_one_output_and_is_valid(predicted, name):
    path = predicted / name / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    (output,) = onnx.load(path).graph.output
    assert output.name == "probabilities"
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("of_logits", "of_probabilities", "refused"),
    [
        (1e-4, 0, ""),  # a rounding error of a logit of 40
        (0, 5e-6, ""),  # an approximate sigmoid
        (1e-3, 0, "the logits of the file in other differ from JAX by 2.5e-05"),
        (0, 2e-5, "the probabilities of the file in other differ from JAX by 2.0e-05"),
        (np.nan, 0, "the logits .* differ from JAX by nan"),
    ],
)
def test_logits_are_compared_with_those_of_jax_and_probabilities_with_the_logits(
    of_logits, of_probabilities, refused
):
    logits = np.array([[-40.0, 0.5, 3.0]] * 3, np.float32)

    def run(images):
        found = logits[: len(images)] + np.float32(of_logits)
        return expit(found) + np.float32(of_probabilities), found

    def check():
        portable.check_outputs("other", run, lambda images: jnp.asarray(logits), (4, 4, 3))

    if not refused:
        return check()
    with pytest.raises(ValueError, match=refused):
        check()
