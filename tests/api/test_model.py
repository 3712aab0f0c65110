"""ml.load: predictions of any kind of image, metrics, features, maps and exports."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mlcls_jax as ml
from mlcls_jax import evaluate, predict
from mlcls_jax.api.model import LoadedModel
from mlcls_jax.run.score_table import FURTHER, MAIN

SIZE = 32


def opened(file) -> Image.Image:
    with Image.open(file) as image:
        image.load()
        return image


@pytest.fixture(scope="module")
def model(trained) -> LoadedModel:
    return ml.load(trained)


def test_every_kind_of_image_gives_equal_probabilities(model, photos):
    path = photos / "00.png"
    pixels = np.asarray(opened(path))
    kinds = [
        path,
        str(path),
        path.read_bytes(),
        opened(path),
        pixels,
        io.BytesIO(path.read_bytes()),
    ]
    predictions = model.predict(kinds)
    assert list(predictions.index) == [str(path), str(path), 2, 3, 4, 5]
    assert (predictions.to_numpy() == predictions.to_numpy()[0]).all()
    assert list(predictions.columns) == list(model.classes)
    for image in (path, pixels, opened(path)):
        one = model.predict(image).to_numpy()
        np.testing.assert_allclose(one, predictions.to_numpy()[:1], rtol=1e-5)


def test_a_jpeg_that_is_not_reduced_equals_its_pixels(model):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    decoded = opened(io.BytesIO(buffer.getvalue()))
    predictions = model.predict([buffer.getvalue(), decoded]).to_numpy()
    np.testing.assert_allclose(predictions[0], predictions[1], atol=2e-3)


def test_orientation_grey_and_alpha_of_pillow_images(model, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, kind in (("grey", image.convert("L")), ("alpha", image.convert("RGBA"))):
        kind.save(tmp_path / f"{name}.png")
    image.save(tmp_path / "turned.png", exif=exif)
    for path in sorted(tmp_path.iterdir()):
        file, pillow = model.predict([path, opened(path)]).to_numpy()
        np.testing.assert_array_equal(file, pillow, err_msg=path.name)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4, 3), 300, np.float32), "300"),
        (np.zeros((4, 4, 5), np.uint8), "5 channels"),
        (b"nothing", "it is not JPEG, PNG"),
        (3, "int is neither an image"),
        ([3], "number 0 cannot be read: it is a int; pass a path"),
        ([], "there are none"),
        ("missing.jpg", r"missing\.jpg cannot be read: the file does not exist"),
    ],
)
def test_what_is_no_image_is_refused(model, image, message):
    with pytest.raises(ValueError, match=message):
        model.predict(image)


def test_the_same_probabilities_and_decisions_as_the_command(model, trained, photos, tmp_path):
    csv, labels = tmp_path / "predictions.csv", tmp_path / "labels.csv"
    arguments = ["--workdir", str(trained), "--csv", str(csv), "--labels", str(labels)]
    assert predict.main([str(photos), *arguments]) == 0
    predictions = model.predict(photos)
    np.testing.assert_allclose(
        predictions.to_numpy(), pd.read_csv(csv).iloc[:, 1:].to_numpy(), atol=1e-6
    )
    decided = pd.read_csv(labels).iloc[:, 1:].to_numpy().astype(bool)
    np.testing.assert_array_equal(predictions.present.to_numpy(), decided)
    part = predictions.iloc[:2, :1]
    pd.testing.assert_frame_equal(part.present, predictions.present.iloc[:2, :1])
    assert model.predict(photos, tta="h").shape == predictions.shape
    assert list(predictions.assign(extra=1.0).present.columns) == list(model.classes)
    with pytest.raises(ValueError, match="no column has a threshold"):
        _ = predictions.rename(columns=str.upper).present


def test_the_same_metrics_as_the_command(model, trained, photos):
    assert evaluate.main(["--workdir", str(trained), "--bootstrap", "50"]) == 0
    written = json.loads((trained / "eval_val.json").read_text())
    result = model.evaluate(resamples=50)
    assert result.metrics["mAP"] == pytest.approx(written["values"]["mAP"])
    assert result.details["thresholds"] == written["thresholds"]
    assert {*MAIN, *FURTHER} <= set(result.metrics) == set(result.base_rate)
    assert {*FURTHER} - {*written["at_thresholds"]} == {
        "AUROC",
        "AUROC_micro",
        "LRAP",
        "coverage_error",
        "precision_at_recall",
    }
    assert written["at_recall"] == 0.9
    assert written["class_precision_at_recall"] == pytest.approx(
        result.per_class["precision_at_recall"].to_dict()
    )
    at_all = model.evaluate(resamples=0, at_recall=1.0)
    assert at_all.metrics["precision_at_recall"] <= result.metrics["precision_at_recall"]
    with pytest.raises(ValueError, match=r"at_recall is 1\.5; it must be above 0"):
        model.evaluate(at_recall=1.5)
    assert written["class_auroc"] == pytest.approx(result.per_class["auroc"].to_dict())
    assert result.interval is not None
    assert result.interval.low == pytest.approx(written["mAP_interval"]["low"])
    assert result.auroc_interval is not None
    assert result.auroc_interval.high == pytest.approx(written["AUROC_interval"]["high"])
    assert list(result.per_class.index) == list(model.classes)
    assert repr(result).startswith(f"<mAP {result.metrics['mAP']:.4f} [")


def test_other_labels_from_a_csv_and_a_data_frame(model, photos):
    frame = pd.read_csv(photos / "labels.csv")
    csv = model.evaluate(photos / "labels.csv", images=photos, resamples=0)
    same = model.evaluate(frame, images=photos, resamples=0)
    assert csv.metrics == same.metrics
    assert csv.interval is None
    assert list(csv.predictions.index) == list(frame["filename"])
    with pytest.raises(ValueError, match="must have the same classes"):
        model.evaluate(frame.rename(columns={"red": "pink"}), images=photos)
    with pytest.raises(ValueError, match="the split 'val' has its own images"):
        model.evaluate(images=photos)
    with pytest.raises(ValueError, match="no split 'test'"):
        model.evaluate("test")


def test_embeddings_are_what_the_head_takes(model, photos):
    paths = [photos / "00.png", photos / "01.png"]
    features = model.embed(paths)
    head = model._run.variables["params"]["head"]
    logits = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    expected = model._run.decision_rule.probabilities(logits)
    np.testing.assert_allclose(model.predict(paths).to_numpy(), expected, rtol=1e-4)


def test_explanations_are_images_of_the_size_of_the_image(model, photos):
    path = photos / "00.png"
    image = model.explain(path, model.classes[0])
    assert image.size == opened(path).size
    again = model.explain(np.asarray(opened(path)), model.classes[0])
    np.testing.assert_array_equal(np.asarray(image), np.asarray(again))
    with pytest.raises(ValueError, match="no class 'cat'; the classes are"):
        model.explain(path, "cat")
    with pytest.raises(ValueError, match="takes one image, not 2"):
        model.explain([path, path], model.classes[0])


def test_exports(model, tmp_path):
    assert model.export("stablehlo", tmp_path / "out").is_file()
    assert (tmp_path / "out" / "config.json").is_file()
    with pytest.raises(ValueError, match="unknown format 'caffe'"):
        model.export("caffe", tmp_path / "other")
    with pytest.raises(ValueError, match="quantize='int4' is unknown; choose 'int8'"):
        model.export("onnx", tmp_path / "other", quantize="int4")


def test_attributes(model, trained):
    assert model.step == 2
    assert set(model.thresholds) == set(model.classes)
    assert model.config.model.variant == "tiny"
    with pytest.raises(ValueError, match="holds no run"):
        ml.load(trained / "checkpoints")
