"""The export formats of one run: content, results and refusals."""

import dataclasses
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from network_files import write
from PIL import Image, ImageOps
from reference_weights import random_images
from sklearn.datasets import load_sample_image
from stored_values import stored
from tolerances import EPS

from mlcls_jax.config import Augment, Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.transforms import PADDING, eval_image
from mlcls_jax.data.loaders.loader import local_rows, train_batches
from mlcls_jax.evaluation.base_rate import probabilities
from mlcls_jax.export import __main__, model_card, portable, weight_files
from mlcls_jax.models.conventions import IMAGENET, LITE, LUKEMELAS, TIMM, PretrainedConfig
from mlcls_jax.models.weights.load import load_pretrained
from mlcls_jax.options import export
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.run.workdir import read_splits_of
from mlcls_jax.step.init import initial_variables, read_weights
from mlcls_jax.step.network import network_spec, variables_shape
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.system.devices import make_mesh
from mlcls_jax.train import train

# Keras's variables have an __array__ of before NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

SIZE = 64


def run_one_step(photos, folder, variant, weights):
    """Trains for one step; the quality of the model does not matter here."""
    config = Config(
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        model=Model(variant=variant, image_size=SIZE, weights=weights),
        # A temperature would make differences of the logits smaller.
        evaluation=Evaluation(calibration="none"),
        phases=[Phase("head", "1 step", [Group("head/.*", 1e-2)])],
    )
    assert train(config, folder) == 0
    return folder


@pytest.fixture(scope="module")
def workdir(photos, tmp_path_factory):
    return run_one_step(photos, tmp_path_factory.mktemp("runs") / "lite0", "lite0", "imagenet")


@pytest.fixture(scope="module")
def expected(workdir):
    """Some images, and the probabilities of the run itself."""
    run = load_trained_model(workdir, "best")
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    return images, probabilities(np.asarray(run.predict(run.variables, images)))


def exported(workdir, out, form):
    assert __main__.main(["--workdir", str(workdir), "--format", form, "--out", str(out)]) == 0
    return json.loads((out / "config.json").read_text())


@pytest.mark.slow
def test_safetensors(workdir, tmp_path, expected, capsys):
    config = exported(workdir, tmp_path / "out", "safetensors")
    run = load_trained_model(workdir, "best")
    assert config["architecture"] == "tf_efficientnet_lite0"
    assert config["label_names"] == list(run.classes)
    assert config["pretrained_cfg"]["input_size"] == [3, SIZE, SIZE]
    own = config["mlcls_jax"]
    assert own["thresholds"] == dict(zip(run.classes, run.decision_rule.thresholds, strict=True))
    assert own["temperatures"] == dict.fromkeys(run.classes, 1.0)
    assert own["val"]["mAP"] == run.metadata["val"]["mAP"]
    again = load_pretrained(tmp_path / "out/model.safetensors")
    assert (
        again.pretrained_config == run.pretrained_config == PretrainedConfig(LUKEMELAS, LITE)
    )  # from the weights, by training
    for got, saved in zip(
        jax.tree.leaves(again.variables), jax.tree.leaves(run.variables), strict=True
    ):
        np.testing.assert_array_equal(got, saved)
    assert "timm.create_model('tf_efficientnet_lite0', num_classes=3" in capsys.readouterr().out


@pytest.mark.reference
@pytest.mark.slow
def test_timm_builds_the_model_from_the_folder(workdir, tmp_path, expected):
    import reference_torch
    import torch

    reference_torch.import_torchvision()
    import timm

    config = exported(workdir, tmp_path / "out", "safetensors")["pretrained_cfg"]
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images, wanted = expected
    x = (images / 255 - np.array(config["mean"])) / np.array(config["std"])
    with torch.no_grad():
        logits = model(torch.from_numpy(x.transpose(0, 3, 1, 2)).float())
    np.testing.assert_allclose(torch.sigmoid(logits), wanted, atol=1e-5)


LOADER = """
import sys, jax, numpy as np
images = np.load(sys.argv[1] + "/images.npy")
data = open(sys.argv[1] + "/model.stablehlo", "rb").read()
predict = jax.export.deserialize(bytearray(data)).call
np.save(sys.argv[1] + "/whole.npy", predict(images))
np.save(sys.argv[1] + "/one.npy", predict(images[:1]))
assert not any(name.startswith(("mlcls_jax", "flax")) for name in sys.modules)
"""


@pytest.mark.slow
def test_stablehlo_needs_only_jax_and_takes_any_batch(workdir, tmp_path, expected):
    out, (images, wanted) = tmp_path / "out", expected
    config = exported(workdir, out, "stablehlo")
    assert config["input"] == {
        "name": "images",
        "dtype": "uint8",
        "shape": ["batch", SIZE, SIZE, 3],
    }
    np.save(out / "images.npy", images)
    subprocess.run([sys.executable, "-c", LOADER, str(out)], check=True)
    np.testing.assert_allclose(np.load(out / "whole.npy"), wanted, atol=1e-5)
    np.testing.assert_allclose(np.load(out / "one.npy"), wanted[:1], atol=1e-5)


@pytest.mark.slow
def test_stablehlo_holds_the_native_convolution_for_accelerators(workdir, tmp_path, monkeypatch):
    exported(workdir, tmp_path / "out", "stablehlo")
    data = bytearray((tmp_path / "out/model.stablehlo").read_bytes())
    assert jax.export.deserialize(data).platforms == ("cpu", "cuda", "tpu")
    monkeypatch.setattr(portable, "PLATFORMS", ("cuda",))  # the file then holds one branch only
    exported(workdir, tmp_path / "cuda", "stablehlo")
    data = bytearray((tmp_path / "cuda/model.stablehlo").read_bytes())
    text = jax.export.deserialize(data).mlir_module()
    kernels = [path for path in flatten(load_trained_model(workdir, "best").variables["params"])]
    depthwise = sum(path.endswith("depthwise/conv/kernel") for path in kernels)
    assert text.count("stablehlo.convolution") == depthwise + 1  # and the stem


def test_the_exported_logits_are_divided_by_temperature():
    logits = np.array([[1.0, -2.0], [4.0, 0.0]], np.float32)
    model: Any = SimpleNamespace(apply=lambda *_, **__: logits)
    images: Any = np.zeros((2, 4, 4, 3), np.uint8)
    plain = portable.make_logits(model, {}, IMAGENET)
    calibrated = portable.make_logits(model, {}, IMAGENET, (2.0, 0.5))
    np.testing.assert_array_equal(plain(images), logits)
    np.testing.assert_allclose(calibrated(images), logits / [2.0, 0.5], rtol=EPS)


RESIZES = ("squash", "center_crop", "letterbox")
GUIDE = Path(__file__).parents[2] / "docs/export.md"


def evaluated(run, resize: str, file: Path) -> tuple[Any, np.ndarray]:
    """A run with another eval_resize, and its square of an image."""
    augment = Augment(eval_resize=resize)
    config = dataclasses.replace(run.config, augment=augment)
    changed = dataclasses.replace(run, config=config, metadata={"step": 0, "val": None})
    image = open_image(file.read_bytes())
    return changed, eval_image(image, size=image_size(run.config.model), augment=augment)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.fixture
def photograph(tmp_path) -> Path:
    """A wide photograph that was taken with the camera upright, so Exif turns it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "photo.jpg"
    Image.fromarray(load_sample_image("china.jpg")).save(file, quality=95, exif=exif)
    return file


@pytest.mark.parametrize("resize", RESIZES)
def test_the_guide_prepares_images_as_evaluation_does(
    run, resize, photograph, tmp_path, monkeypatch
):
    changed, wanted = evaluated(run, resize, photograph)
    folder = tmp_path / "exported/jax"
    folder.mkdir(parents=True)
    config = {"mlcls_jax": __main__.describe_usage(changed)}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    guide: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "def prepare(" in block)
    exec(code, guide)
    found = guide["prepare"](photograph)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.reference
@pytest.mark.parametrize("resize", RESIZES)
def test_timm_prepares_images_as_evaluation_does(run, resize, photograph):
    import reference_torch

    reference_torch.import_torchvision()
    from timm.data.transforms_factory import create_transform

    changed, wanted = evaluated(run, resize, photograph)
    size = image_size(run.config.model)
    transform: Any = create_transform(
        input_size=(3, size, size),
        interpolation="bilinear",
        crop_pct=weight_files.crop_share(changed),
        crop_mode=weight_files.CROP_MODES[resize],
        mean=(PADDING / 255,) * 3,
        std=(1.0, 1.0, 1.0),
    )
    upright = ImageOps.exif_transpose(Image.open(photograph)).convert("RGB")
    found = 255 * transform(upright).numpy().transpose(1, 2, 0) + PADDING
    assert psnr(found, wanted) > max(24, psnr(found, np.roll(wanted, 1, axis=1)) + 2)


@pytest.fixture(scope="module")
def b0_workdir(photos, tmp_path_factory):
    """A run from a weight file of timm's B0: symmetric padding, epsilon 1e-5."""
    folder = tmp_path_factory.mktemp("b0")
    file = write(stored("networks"), "timm b0", folder)
    return run_one_step(photos, folder / "run", "b0", str(file)), file


@pytest.mark.slow
def test_a_run_computes_as_the_weights_were_trained(b0_workdir, tmp_path):
    """The convention of the file holds in training, in the checkpoint and in the export."""
    workdir, file = b0_workdir
    run, pretrained = load_trained_model(workdir, "best"), load_pretrained(file)
    assert run.pretrained_config == pretrained.pretrained_config == PretrainedConfig(TIMM, IMAGENET)
    images = random_images(np.random.default_rng(0), (8, SIZE, SIZE, 3))  # even: paddings differ
    x = (images - np.float32(IMAGENET.mean)) / np.float32(IMAGENET.std)
    model = pretrained.model.clone(num_classes=len(run.classes))
    wanted = np.asarray(jax.jit(model.apply)(run.variables, x))
    got = np.asarray(run.predict(run.variables, images))
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    exported(workdir, tmp_path / "out", "stablehlo")
    data = bytearray((tmp_path / "out/model.stablehlo").read_bytes())
    served = np.asarray(jax.export.deserialize(data).call(images))
    np.testing.assert_allclose(served, probabilities(wanted), atol=1e-5)
    with pytest.raises(ValueError, match="need symmetric padding and epsilon 1e-05"):
        exported(workdir, tmp_path / "keras", "keras")


@pytest.mark.slow
def test_training_updates_the_statistics_as_the_weights_were_trained(photos, tmp_path, b0_workdir):
    """Checks the stem, because no dropout comes before it."""
    _, file = b0_workdir
    pretrained = load_pretrained(file)
    config = Config(
        recipe="none",
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        augment=Augment(symmetry="none"),
        model=Model(variant="b0", image_size=SIZE, weights=str(file)),
        phases=[Phase("stem", "1 step", [Group("backbone/stem/.*", 1e-9)], batch_norm="train")],
    )
    assert train(config, tmp_path / "run") == 0
    table = read_splits_of(tmp_path / "run", config.data)["train"]
    rows = local_rows(8, "data.batch_size")
    options = {"rows": rows, "size": SIZE, "augment": config.augment, "seed": config.seed}
    batch = next(train_batches(table, first_step=0, last_step=1, **options))
    x = (batch.image - np.float32(IMAGENET.mean)) / np.float32(IMAGENET.std)
    model = pretrained.model.clone(active=frozenset({"backbone/stem/norm"}), dropout=0.0)
    apply = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    _, updated = apply(pretrained.variables, x)
    stem = load_trained_model(tmp_path / "run", "best").variables["batch_stats"]["backbone"][
        "stem"
    ]["norm"]
    wanted = updated["batch_stats"]["backbone"]["stem"]["norm"]
    # Each device computes the variance of its own image, so only the means are equal.
    np.testing.assert_allclose(stem["mean"], wanted["mean"], rtol=1e-4, atol=1e-5)


@pytest.mark.reference
@pytest.mark.slow
def test_keras(photos, tmp_path):
    import keras

    file = write(stored("networks"), "timm tf b0", tmp_path)  # as Keras pads
    workdir = run_one_step(photos, tmp_path / "run", "b0", str(file))
    config = exported(workdir, tmp_path / "out", "keras")
    run = load_trained_model(workdir, "best")
    model = getattr(keras.applications, config["application"])(**config["arguments"])
    model.load_weights(tmp_path / "out/model.weights.h5")
    images = random_images(np.random.default_rng(0), (8, SIZE, SIZE, 3))
    wanted = np.asarray(run.predict(run.variables, images))
    np.testing.assert_allclose(model(images.astype(np.float32)), wanted, atol=1e-4)
    assert config["normalization"] == "inside"
    assert load_pretrained(tmp_path / "out").classes == run.classes


@pytest.mark.slow
def test_an_exported_head_is_reused_by_the_names_of_its_classes(workdir, photos, tmp_path, capsys):
    exported(workdir, tmp_path / "out", "safetensors")
    run = load_trained_model(workdir, "best")
    head = run.variables["params"]["head"]["kernel"]
    mesh = make_mesh()
    config = Config(model=Model(variant="lite0", weights=str(tmp_path / "out"), image_size=SIZE))
    network, weights = network_spec(config.model, 3), config.model.weights
    shapes = variables_shape(network, mesh)
    fresh = {"weights": weights, "seed": 0, "bias": {}}
    turned = read_weights(weights, "lite0", run.classes[::-1])
    variables = initial_variables(network, turned, shapes, mesh, **fresh)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], head[:, ::-1])
    assert "the head has the same classes" in capsys.readouterr().out
    other = read_weights(weights, "lite0", (*run.classes[:2], "other"), shapes)
    initial_variables(network, other, shapes, mesh, **fresh)
    assert "new: head/bias, head/kernel" in capsys.readouterr().out


@pytest.mark.slow
def test_onnx_gives_the_same_probabilities(workdir, tmp_path, expected):
    import onnx
    import onnxruntime

    exported(workdir, tmp_path / "out", "onnx")
    path, (images, wanted) = tmp_path / "out/model.onnx", expected
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (1, 8):
        (got,) = session.run(None, {"images": images[:rows]})
        np.testing.assert_allclose(got, wanted[:rows], atol=1e-5)


@pytest.mark.slow
def test_a_triton_repository_has_the_onnx_file_and_its_shapes(workdir, tmp_path):
    import onnx

    exported(workdir, tmp_path / "photos", "triton")
    names = {str(path.relative_to(tmp_path / "photos")) for path in tmp_path.rglob("*.*")}
    assert names == {"1/model.onnx", "config.json", "config.pbtxt", "labels.txt"}
    config = json.loads((tmp_path / "photos/config.json").read_text())
    assert config["mlcls_jax"]["file"] == "1/model.onnx"
    graph = onnx.load(tmp_path / "photos/1/model.onnx").graph
    text = (tmp_path / "photos/config.pbtxt").read_text()
    for value, kind in ((graph.input[0], "TYPE_UINT8"), (graph.output[0], "TYPE_FP32")):
        dims = ", ".join(str(d.dim_value) for d in value.type.tensor_type.shape.dim[1:])
        assert f'name: "{value.name}", data_type: {kind}, dims: [{dims}]' in text
    labels = (tmp_path / "photos/labels.txt").read_text().splitlines()
    assert labels == list(load_trained_model(workdir, "best").classes)


@pytest.mark.slow
def test_a_confident_model_is_exported_and_one_with_other_results_is_not(
    workdir, tmp_path, monkeypatch
):
    """Logarithms of probabilities would refuse it: the sigmoid of onnxruntime ends at 6e-8."""
    run = load_trained_model(workdir, "best")
    head = jax.tree.map(lambda leaf: 40 * leaf, run.variables["params"]["head"])
    params = run.variables["params"] | {"head": head}
    run = dataclasses.replace(run, variables=run.variables | {"params": params})
    __main__.export_model(run, "onnx", tmp_path / "out", workdir)
    monkeypatch.setattr(portable, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"differ from JAX by .*not written"):
        __main__.export_model(run, "onnx", tmp_path / "other", workdir)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_int8_has_its_map_before_and_after_in_the_config(workdir, tmp_path, capsys):
    import onnxruntime

    out = tmp_path / "out"
    argv = ["--workdir", str(workdir), "--format", "onnx", "--quantize", "int8", "--out", str(out)]
    assert __main__.main(argv) == 0
    own = json.loads((out / "config.json").read_text())["mlcls_jax"]
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.int8.onnx"]
    assert own["file"] == "model.int8.onnx"
    scores = own["quantization"]
    assert scores["type"] == "int8" and scores["calibration_images"] == scores["val_images"] > 0
    # Only the file in float32 has the mAP of the run, to the rounding errors of a threshold.
    assert scores["val_mAP_float32"] == pytest.approx(own["val"]["mAP"], abs=1e-6)
    assert 0 <= scores["val_mAP"] <= 1
    assert "int8: mAP of" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(out / "model.int8.onnx")
    (found,) = session.run(None, {"images": images})
    run = load_trained_model(workdir, "best")
    repeated = np.repeat(images, 4, axis=0)  # eight devices
    wanted = probabilities(np.asarray(run.predict(run.variables, repeated)))[::4]
    assert 0 < np.abs(found - wanted).max() < 0.1


@pytest.mark.reference
@pytest.mark.slow
def test_a_network_of_the_user_is_converted(workdir, tmp_path):
    pytest.importorskip("jax2onnx")
    from mlcls_jax.export.onnx_file import convert_onnx

    def logits(images):
        pixels = images.astype(np.float32).mean(axis=(1, 2))
        return jax.nn.relu(pixels @ np.ones((3, 2), np.float32)) / 100

    assert convert_onnx(tmp_path, logits, (8, 8, 3)).name == "model.onnx"


@pytest.mark.parametrize("write", [weight_files.write_safetensors, weight_files.write_keras])
def test_timm_and_keras_refuse_a_decoder(write, tmp_path):
    run: Any = SimpleNamespace(config=Config(model=Model("b0", head="mldecoder")))
    with pytest.raises(ValueError, match="an ML-Decoder as its head; export to stablehlo"):
        write(run, tmp_path)


@pytest.mark.slow
def test_refused_exports(workdir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"keras\.applications has no lite0"):
        exported(workdir, out, "keras")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    for form, custom, message in [
        ("onnx", "", r"needs onnx and onnxruntime; run: pip install 'mlcls_jax\[onnx\]'$"),
        ("onnx", "own:Net", "pip install --no-deps 'jax2onnx"),
        ("tflite", "", r"needs tensorflow; run: pip install 'mlcls_jax\[tf_data\]'"),
        ("saved_model", "own:Net", "has model.custom=own:Net; export to stablehlo or onnx"),
    ]:
        with pytest.raises(ValueError, match=message):
            export.check_format(form, "", custom)
    with pytest.raises(ValueError, match="int8 is for the format onnx, not for tflite"):
        export.check_format("tflite", "int8", "")
    assert list(tmp_path.iterdir()) == []  # nothing half-written
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(ValueError, match="already exists; choose a new folder"):
        exported(workdir, out, "safetensors")
    with pytest.raises(ValueError, match="holds no run"):
        exported(tmp_path / "none", tmp_path / "new", "safetensors")


def test_the_model_card_of_a_run_has_its_scores_and_data(workdir):
    card = model_card.model_card(load_trained_model(workdir, "best"), workdir, "me/birds")
    run = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert (
        f"| mAP (mean average precision) | {run['val']['mAP']:.4f} | {run['base_rate']['mAP']:.4f}"
        in card
    )
    assert re.search(r"mean average precision\) \| [\d.]+ \| [\d.]+ \| [\d.]+ to [\d.]+ \|", card)
    assert "10 images of val." in card and "Thresholds were tuned on these images." in card
    assert "| train | 30 |" in card and "from the weights `imagenet`" in card
    assert str(workdir) not in card and "labels.csv" not in card
