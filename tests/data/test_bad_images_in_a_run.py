"""Whole runs on folders with typical bad images."""

import csv
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcls_jax import evaluate, predict
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.train import train

RED = Image.new("RGB", (30, 20), "red")


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def claiming(side: int) -> bytes:
    """The first bytes of a PNG that claims side x side pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    end = struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\1\0IDAT"
    return (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + end).ljust(200, b"\0")


SHADES = np.arange(0, 65536, 160, dtype=np.uint16)[:400].reshape(20, 20)
GOOD = {
    "png named.jpg": encoded(RED, "PNG"),
    "cmyk.jpg": encoded(RED.convert("CMYK"), "JPEG"),
    "16 bit.png": encoded(Image.fromarray(SHADES), "PNG"),
    "1x1.png": encoded(RED.resize((1, 1)), "PNG"),
    "1x5000.png": encoded(RED.resize((1, 5000)), "PNG"),
    "animated.gif": encoded(RED, "GIF", save_all=True, append_images=[RED.rotate(90)]),
    "100% größe, ü #1.jpg": encoded(RED, "JPEG"),
}
BAD = {
    "truncated.jpg": (encoded(Image.effect_noise((90, 90), 50), "JPEG")[:-500], "JPEG data"),
    "empty.jpg": (b"", "empty"),
    "zeros.jpg": (bytes(5000), "zeros"),
    "html.jpg": (b"<!DOCTYPE html><html>404</html>", "HTML"),
    "bomb.png": (claiming(20_000), "20000 x 20000"),
}


@pytest.fixture(autouse=True)
def _the_settings_of_a_command():
    with image_libraries():
        yield


@pytest.fixture
def folder(photos, tmp_path):
    """The photos, and among them unusual good images and bad ones."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = list(csv.reader((photos / "labels.csv").read_text().splitlines()))
    for path in photos.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    for name, contents in GOOD.items():
        (folder / name).write_bytes(contents)
    for name, (contents, _) in BAD.items():
        (folder / name).write_bytes(contents)
    rows += [[name, "1", "0", "0"] for name in (*GOOD, *BAD)]
    split = [["split"], *[["val" if i % 3 == 0 else "train"] for i in range(len(rows) - 1)]]
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(row + extra for row, extra in zip(rows, split, strict=True))
    return folder


def make_config(folder: Path, variant: str, **data) -> Config:
    return Config(
        data=Data(csv=str(folder / "labels.csv"), images=str(folder), batch_size=8, **data),
        model=Model(variant=variant, weights="", image_size=32),
        evaluation=Evaluation(every="5 steps"),
        phases=[Phase("head", "10 steps", [Group("head/.*", 1e-2)])],
    )


def test_bad_images_are_skipped_counted_and_named(folder, tiny, tmp_path, capsys):
    run = tmp_path / "run"
    config = make_config(folder, tiny, on_bad_image="skip", max_bad_fraction=0.2)
    assert train(config, run) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{len(BAD)} images could not be read and were skipped" in printed
    with open(run / "bad_images.csv", newline="") as file:
        listed = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert listed.keys() == BAD.keys()
    assert all(reason in listed[name] for name, (_, reason) in BAD.items())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [np.isfinite(line["val"]["loss"]) for line in lines] == [True, True]

    assert evaluate.main(["--workdir", str(run), "--split", "val", "--checkpoint", "latest"]) == 0
    result = json.loads((run / "eval_val.json").read_text())
    with open(run / "predictions_val.csv", newline="", encoding="utf-8") as file:
        predicted = [row["filename"] for row in csv.DictReader(file)]
    assert result["num_images"] == len(predicted) and not BAD.keys() & set(predicted)
    assert result["unreadable"] > 0
    values = {name: result["values"][name] for name in lines[-1]["val"]}
    assert values == pytest.approx(lines[-1]["val"], rel=1e-5)

    capsys.readouterr()
    images = [str(folder / name) for name in ("animated.gif", "html.jpg")]
    assert predict.main(["--workdir", str(run), "--json", *images]) == 0
    printed = capsys.readouterr()
    assert [row["filename"] for row in json.loads(printed.out)] == images[:1]
    assert f"{images[1]} is skipped: it is HTML" in printed.err
    with pytest.raises(ValueError, match=r"html\.jpg cannot be read: it is HTML"):
        predict.main(["--workdir", str(run), "--on-bad-image", "error", *images])


def test_too_many_bad_images_stop_the_run(folder, tiny, tmp_path):
    config = make_config(folder, tiny, on_bad_image="skip", max_bad_fraction=0.05)
    with pytest.raises(ValueError, match=r"[345] images cannot be read.*max_bad_fraction"):
        train(config, tmp_path / "run")


def test_by_default_the_first_bad_image_is_an_error(folder, tiny, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read: .*on_bad_image=skip"):
        train(make_config(folder, tiny), tmp_path / "run")
