"""The learning-rate range test: its arithmetic, and the command on generated images."""

import math
import os
import sys

import numpy as np
import pytest
from PIL import Image

from mlcls_jax import lr_find
from mlcls_jax.config import Config, loading
from mlcls_jax.step.lr_finder import MEMORY, LrFinder, lr_finder_schedule, rounded, rows
from mlcls_jax.system import distributed

# ml_collections loads a config file by a method that Python has deprecated.


def curve(losses, steps=100) -> LrFinder:
    """Returns a range test with the given losses."""
    test = LrFinder(steps)
    for rate, loss in zip(np.geomspace(1e-7, 10, steps), losses, strict=False):
        test.add(float(rate), float(loss))
    return test


def test_smoothing_is_the_moving_average_divided_by_its_weights():
    losses = np.random.default_rng(0).uniform(0.1, 1.0, 30)
    weights = (1 - MEMORY / 100) ** np.arange(30)
    for count in (1, 2, 30):
        expected = (weights[:count][::-1] * losses[:count]).sum() / weights[:count].sum()
        assert curve(losses).smoothed[count - 1] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(curve([0.7] * 30).smoothed, 0.7)


def test_the_loss_of_a_batch_is_compared_with_its_own_first_one():
    levels, fall = np.array([0.5, 0.9, 0.7]), -0.01 * np.arange(30)
    fall[:3] = 0  # the first rates change nothing
    test = LrFinder(30, batches=3)
    for rate, loss in zip(np.geomspace(1e-6, 1, 30), np.tile(levels, 10) + fall, strict=True):
        test.add(float(rate), float(loss))
    np.testing.assert_allclose(test.losses, 0.5 + fall)


@pytest.mark.parametrize("steps", [10, 13, 40, 100])
def test_a_short_test_finds_the_fall_of_a_curve_and_its_minimum(steps):
    rates = np.linspace(-7, 1, steps)  # decimal logarithms
    losses = 0.7 - 0.5 / (1 + np.exp(-(rates + 3) / 0.3)) + 4.0 * np.maximum(rates, 0)
    test = curve(losses, steps)
    assert test.has_risen and abs(math.log10(test.suggestion) + 3) < 0.5
    falling = curve(losses[rates < -1.5], len(losses[rates < -1.5]))
    assert not falling.has_risen


def test_the_suggestion_is_where_a_falling_loss_falls_fastest():
    steps = np.arange(100)
    # The loss falls around step 50 and rises from step 80 on.
    test = curve(0.7 - 0.5 / (1 + np.exp(-(steps - 50) / 3)) + 5.0 * np.maximum(steps - 80, 0))
    assert 48 <= test.rates.index(test.suggestion) <= 52
    assert test.has_diverged and not curve([0.7] * 100).has_diverged


def test_a_loss_that_never_falls_suggests_nothing():
    assert curve(np.linspace(0.7, 2.0, 100)).suggestion is None
    assert curve([0.7] * 100).suggestion is None
    assert LrFinder(100).suggestion is None


def test_noise_between_batches_neither_hides_a_fall_nor_looks_like_one():
    steps, rng = np.arange(100), np.random.default_rng(0)
    fall = 0.1 / (1 + np.exp(-(steps - 65) / 4)) - 0.2 * np.maximum(steps - 88, 0)
    noise = rng.normal(0.5, 0.03, (200, 100))
    found = [test.rates.index(test.suggestion) for test in map(curve, noise - fall)]
    assert min(found) >= 55 and max(found) <= 75
    assert sum(curve(losses).suggestion is not None for losses in noise) < 10


def test_rates_are_rounded_to_two_digits_and_drawn_as_bars():
    assert (rounded(0.0012345), rounded(3.0), rounded(9.96e-8)) == (0.0012, 3.0, 1e-7)
    table = rows(curve(np.linspace(1.0, 0.5, 100)), 20, 40)
    assert len(table) == 20 and table[0] == ["1.0e-07", "1.0000", "#" * 40]
    bars = [len(bar.rstrip()) for _, _, bar in table]
    assert bars == sorted(bars, reverse=True) and bars[-1] == 0
    assert rows(curve([0.7]), 20, 40) == [["1.0e-07", "0.7000", " " * 40]]


def test_the_rates_of_all_groups_grow_by_one_factor():
    make = lr_finder_schedule(1e-6, 1.0, highest=0.01)
    high, low = make(None, 0.01, 7, 3), make(None, 0.002, 7, 3)
    expected = np.geomspace(1e-6, 1.0, 7)
    np.testing.assert_allclose([high(step) for step in range(7)], expected, rtol=1e-5)
    np.testing.assert_allclose([low(step) for step in range(7)], 0.2 * expected, rtol=1e-5)


CONFIG = """
from mlcls_jax.config import Augment, Config, Data, Group, Model, Phase

def get_config():
    return Config(
        data=Data(csv={csv!r}, images={images!r}, batch_size=8),
        model=Model({variant!r}, weights="", image_size=32, head_bias="zero"),
        phases=[
            Phase("cached", "1 epoch", [Group("head/.*", 1e-2)], cached_views=1),
            Phase(
                "tail",
                "2 epochs",
                [Group("head/kernel", 2e-3), Group("head/bias", 1e-3)],
                warmup="3 steps",
            ),
        ],
    )
"""


@pytest.fixture
def config_file(photos, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loading, "validate", lambda _: None
    )  # the config does not know the variant "tiny"
    path = tmp_path / "own.py"
    fields = {"csv": str(photos / "labels.csv"), "images": str(photos), "variant": tiny}
    path.write_text(CONFIG.format(**fields))
    return str(path)


@pytest.fixture(autouse=True)
def _no_second_start(monkeypatch):
    """A second start would write the compilation cache to the home folder of the user."""
    monkeypatch.setattr(distributed, "start", lambda *_: None)


def test_the_command_prints_overrides_and_writes_only_an_image(
    config_file, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of the config file, by Python
    argv = ["--config", config_file, "--steps", "60", "--phase", "tail", "--high", "1e3"]
    before = {*os.listdir(tmp_path), *os.listdir(photos)}
    assert lr_find.main(argv) == 0
    assert {*os.listdir(tmp_path), *os.listdir(photos)} - before == {"lr_find.png"}
    with Image.open(tmp_path / "lr_find.png") as image:
        assert image.format == "PNG" and min(image.size) > 400
    output = capsys.readouterr().out
    lines = [line.strip() for line in output.splitlines() if line.strip().startswith("'--config")]
    rates = [float(line.split("learning_rate=")[1].split("'")[0]) for line in lines]
    assert len(rates) == 2 and rates[0] == pytest.approx(2 * rates[1], rel=0.06)
    assert lines[0].startswith("'--config.phases[1].groups[0].learning_rate=")
    assert "# head/kernel, now 0.002" in lines[0]
    assert "1.0e-07" in output  # the table begins at --low


def test_a_mistake_in_the_options_is_one_line(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, message in [
        (["--phase", "tial"], "--phase tial: .*choose from cached, tail"),
        (["--out", "none/a.png"], "--out none/a.png: its folder does not exist"),
        (["--workdir", "none"], "none"),
    ]:
        with pytest.raises(ValueError, match=message):
            lr_find.main(["--config", config_file, *options])
    for wrong in (["--steps", "9"], ["--low", "1", "--high", "0.1"], ["--out", "a.jpg"]):
        with pytest.raises(SystemExit):
            lr_find.parse(["--config", config_file, *wrong])


def test_a_report_of_a_diverged_test(tmp_path, capsys):
    config = Config()
    test = curve([0.7, 0.7, 0.7, 9.0], steps=100)
    lr_find._report(test, config.phases[1], config.phases, tmp_path / "a.png")
    output = capsys.readouterr().out
    assert "The loss diverged" in output and "no clear minimum: the loss never fell" in output
    still = curve(np.linspace(0.7, 0.3, 100))
    lr_find._report(still, config.phases[1], config.phases, tmp_path / "a.png")
    output = capsys.readouterr().out
    assert "no clear minimum: the loss still falls at 1.0e+01" in output
    assert "so the rates below are uncertain" in output and "learning_rate=" in output
