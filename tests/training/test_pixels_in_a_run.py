"""Whole runs on images with other depths and channels, in every loader."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

import mlcls_jax as ml

RNG = np.random.default_rng(0)
LOADERS = ("threads", "tf_data", "grain")


@pytest.fixture
def config(tiny, tmp_path):
    """Returns a config of two steps for 12 images of 12 bits in grey."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = ["filename,a,b,split"]
    for i in range(16):
        grey = RNG.integers(0, 256, (40, 40), dtype=np.uint16)
        Image.fromarray(grey * 16).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{i % 2},{i // 2 % 2},{'val' if i % 4 > 1 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return ml.Config(
        recipe="none",
        data=ml.Data(
            csv=str(folder / "labels.csv"), images=str(folder), batch_size=8, eval_batch_size=8
        ),
        model=ml.Model(variant=tiny, weights="", image_size=32, in_channels=1),
        phases=[ml.Phase("all", "2 steps", [ml.Group(".*", 1e-2)])],
    )


@pytest.mark.parametrize("loader", LOADERS)
def test_the_bits_in_use_are_found_and_kept(config, tmp_path, loader, capsys):
    needed = {"tf_data": "tensorflow", "grain": "grain"}.get(loader)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, loader=loader))
    run = ml.train(config, tmp_path / "run")
    assert "data.bit_depth=12: the largest value is 4,080 in the 16 images" in (
        " ".join(capsys.readouterr().out.split())
    )
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["bit_depth"] == "12"
    model = run.load()
    path = tmp_path / "images/0.png"
    pixels = np.asarray(Image.open(path))
    predictions = model.predict([str(path), pixels, (pixels >> 4).astype(np.uint8)])
    np.testing.assert_array_equal(predictions.iloc[0], predictions.iloc[1])
    np.testing.assert_array_equal(predictions.iloc[0], predictions.iloc[2])
    ml.train(config, tmp_path / "run")  # continues: its depth is that of the run


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_four_channels_with_a_cache_and_augmentation(config, tmp_path, cache):
    for path in (tmp_path / "images").glob("*.png"):
        Image.fromarray(RNG.integers(0, 256, (40, 40, 4), dtype=np.uint8)).save(path)
    data = dataclasses.replace(config.data, cache=cache, cache_folder=str(tmp_path / "cache"))
    augment = ml.Augment(rand_augment=4, cutout=0.2, erase=0.5)
    model = dataclasses.replace(config.model, in_channels=4)
    config = dataclasses.replace(config, data=data, augment=augment, model=model)
    loaded = ml.train(config, tmp_path / "run").load()
    path = str(tmp_path / "images/0.png")
    with Image.open(path) as image:
        pixels = np.asarray(image)
    predictions = loaded.predict([path, pixels], tta="flip")
    np.testing.assert_array_equal(predictions.iloc[0], predictions.iloc[1])
    assert loaded.explain(path, "a").mode == "RGB"
    file = loaded.export("stablehlo", tmp_path / "out")
    shape = json.loads((file.parent / "config.json").read_text())["input"]["shape"]
    assert shape == ["batch", 32, 32, 4]
    with pytest.raises(ValueError, match=r"it has 3 channels, but model\.in_channels is 4"):
        loaded.predict(pixels[..., :3])


def test_changes_of_colours_are_refused(config, tmp_path):
    config = dataclasses.replace(config, augment=ml.Augment(hue=0.1))
    with pytest.raises(ValueError, match=r"augment\.hue is 0\.1, which changes colours"):
        ml.train(config, tmp_path / "run")
