"""The four formats from one run: what they hold, give, and refuse."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from mlcls_jax import export, serving
from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.models.lineages import LITE, LUKEMELAS, Origin
from mlcls_jax.models.pretrained import load_pretrained
from mlcls_jax.scoring import probabilities
from mlcls_jax.train import train
from mlcls_jax.workdir import load_run

SIZE = 64


@pytest.fixture(scope="module")
def workdir(photos, tmp_path_factory):
    """A run of one step: the formats do not care how good it is."""
    folder = tmp_path_factory.mktemp("runs") / "lite0"
    config = Config(
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        model=Model(variant="lite0", image_size=SIZE),
        phases=[Phase("head", "1 step", [Group("head/.*", 1e-2)])],
    )
    assert train(config, folder) == 0
    return folder


@pytest.fixture(scope="module")
def expected(workdir):
    """Some pictures and what the run itself says of them."""
    run = load_run(workdir, "best")
    pictures = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    return pictures, probabilities(np.asarray(run.predict(run.variables, pictures)))


def exported(workdir, out, form):
    assert export.main(["--workdir", str(workdir), "--format", form, "--out", str(out)]) == 0
    return json.loads((out / "config.json").read_text())


@pytest.mark.slow
def test_safetensors(workdir, tmp_path, expected, capsys):
    config = exported(workdir, tmp_path / "out", "safetensors")
    run = load_run(workdir, "best")
    assert config["architecture"] == "tf_efficientnet_lite0"
    assert config["label_names"] == list(run.classes)
    assert config["pretrained_cfg"]["input_size"] == [3, SIZE, SIZE]
    own = config["mlcls_jax"]
    assert own["thresholds"] == dict.fromkeys(run.classes, 0.5)
    assert own["val"]["mAP"] == run.meta["val"]["mAP"]
    again = load_pretrained(tmp_path / "out/model.safetensors")
    assert again.origin == run.origin == Origin(LUKEMELAS, LITE)  # from the weights, by training
    for got, saved in zip(
        jax.tree.leaves(again.variables), jax.tree.leaves(run.variables), strict=True
    ):
        np.testing.assert_array_equal(got, saved)
    assert "timm.create_model('tf_efficientnet_lite0', num_classes=3" in capsys.readouterr().out


@pytest.mark.slow
def test_timm_builds_the_model_from_the_folder(workdir, tmp_path, expected):
    import reference_torch
    import torch

    reference_torch.import_torchvision()
    import timm

    config = exported(workdir, tmp_path / "out", "safetensors")["pretrained_cfg"]
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pictures, wanted = expected
    x = (pictures / 255 - np.array(config["mean"])) / np.array(config["std"])
    with torch.no_grad():
        logits = model(torch.from_numpy(x.transpose(0, 3, 1, 2)).float())
    np.testing.assert_allclose(torch.sigmoid(logits), wanted, atol=1e-5)


LOADER = """
import sys, jax, numpy as np
pictures = np.load(sys.argv[1] + "/pictures.npy")
data = open(sys.argv[1] + "/model.stablehlo", "rb").read()
predict = jax.export.deserialize(bytearray(data)).call
np.save(sys.argv[1] + "/whole.npy", predict(pictures))
np.save(sys.argv[1] + "/one.npy", predict(pictures[:1]))
assert not any(name.startswith(("mlcls_jax", "flax")) for name in sys.modules)
"""


@pytest.mark.slow
def test_stablehlo_needs_jax_alone_and_takes_any_batch(workdir, tmp_path, expected):
    out, (pictures, wanted) = tmp_path / "out", expected
    config = exported(workdir, out, "stablehlo")
    assert config["input"] == {
        "name": "images",
        "dtype": "uint8",
        "shape": ["batch", SIZE, SIZE, 3],
    }
    np.save(out / "pictures.npy", pictures)
    subprocess.run([sys.executable, "-c", LOADER, str(out)], check=True)
    np.testing.assert_allclose(np.load(out / "whole.npy"), wanted, atol=1e-5)
    np.testing.assert_allclose(np.load(out / "one.npy"), wanted[:1], atol=1e-5)


@pytest.mark.slow
def test_stablehlo_holds_the_native_convolution_for_accelerators(workdir, tmp_path):
    exported(workdir, tmp_path / "out", "stablehlo")
    data = bytearray((tmp_path / "out/model.stablehlo").read_bytes())
    assert jax.export.deserialize(data).platforms == ("cpu", "cuda", "tpu")


@pytest.mark.slow
def test_onnx_gives_the_same_probabilities(workdir, tmp_path, expected):
    import onnx
    import onnxruntime

    exported(workdir, tmp_path / "out", "onnx")
    path, (pictures, wanted) = tmp_path / "out/model.onnx", expected
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (1, 8):
        (got,) = session.run(None, {"images": pictures[:rows]})
        np.testing.assert_allclose(got, wanted[:rows], atol=1e-5)


@pytest.mark.slow
def test_a_file_that_gives_something_else_is_not_written(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="off in onnxruntime, so it is not written"):
        exported(workdir, tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_cannot_be_exported(workdir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"keras\.applications has no lite0"):
        exported(workdir, out, "keras")
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install jax2onnx onnxruntime"):
        exported(workdir, out, "onnx")
    assert list(tmp_path.iterdir()) == []  # nothing half-written
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(ValueError, match="is there already; name a new folder"):
        exported(workdir, out, "safetensors")
    with pytest.raises(ValueError, match="holds no run"):
        exported(tmp_path / "none", tmp_path / "new", "safetensors")
