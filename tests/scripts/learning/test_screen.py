"""Screening: settings by name, hidden labels, and folds that are trained and scored once."""

import numpy as np
import pytest
import screen
from out_of_fold import read
from PIL import Image
from screen_network import Settings


def test_settings_are_read_by_their_names():
    settings = screen.parse_settings(["mixup=0.4", "epochs=2", "head=logistic"])
    assert settings == Settings(mixup=0.4, epochs=2, head="logistic")
    with pytest.raises(ValueError, match="epoch=2: no such setting; choose from cut, head"):
        screen.parse_settings(["epoch=2"])


def test_each_network_trains_without_one_fold():
    labels = np.tile(np.eye(4, dtype=np.float32), (10, 1))
    assert [len(part) for part in screen.training_parts(labels, Settings(), seed=0)] == [40]
    parts = screen.training_parts(labels, Settings(own_folds=5), seed=0)
    assert [len(part) for part in parts] == [32] * 5
    assert (np.bincount(np.concatenate(parts)) == 4).all()
    with pytest.raises(ValueError, match="own_folds=1: choose 0, or 2 or more"):
        screen.parse_settings(["own_folds=1"])


def test_labels_are_turned_around_and_hidden():
    labels = np.tile(np.array([[1], [0], [-1]], np.int8), (400, 4))
    settings = Settings(flipped=0.25, unknown=0.5)
    changed = screen.hidden(labels, settings, seed=0)
    assert (changed == screen.hidden(labels, settings, seed=0)).all()
    known = (changed >= 0) & (labels >= 0)
    assert (changed[labels < 0] == -1).all()
    assert np.mean(changed[labels >= 0] < 0) == pytest.approx(0.5, abs=0.03)
    assert np.mean(changed[known] != labels[known]) == pytest.approx(0.25, abs=0.03)
    assert (screen.hidden(labels, Settings(), seed=0) == labels).all()


@pytest.mark.slow
def test_rows_are_scored_out_of_fold(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["filename,red,dark,fold"]
    for i in range(20):
        red, dark = i % 2, i // 2 % 2
        color = np.array([200, 60 + 100 * (1 - red), 60 + 100 * (1 - red)]) // (1 + 3 * dark)
        pixels = np.clip(color + rng.normal(0, 10, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{red},{dark},{i // 4}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    common = ["--csv", f"{tmp_path / 'labels.csv'}", "--images", f"{tmp_path}", "--out"]
    common += [f"{tmp_path / 'out'}"]
    small = ["size=64", "epochs=3", "head_epochs=30", "warmup=0"]
    screen.main([*common, "tail", *small, "cut=7", "mixup=0.4", "sam=0.05", "smoothing=0.1"])
    screen.main([*common, "folds", *small, "cut=8", "own_folds=2"])
    screen.main([*common, "logistic", *small, "cut=9", "head=logistic"])
    tail, logistic = (read(tmp_path / "out", name) for name in ("tail", "logistic"))
    assert logistic.fold[0].tolist() == [i // 4 for i in range(20)]
    for name in ("tail", "tail:head", "tail:flip", "tail:average", "tail:half"):
        row = read(tmp_path / "out", name)
        assert np.isfinite(row.logits[0]).all() and row.labels.shape == (20, 2)
    assert not np.allclose(tail.logits[0], read(tmp_path / "out", "tail:head").logits[0])
    names = ("folds", "folds:ensemble", "folds:soup")
    folds, ensemble, soup = (read(tmp_path / "out", name) for name in names)
    assert not np.allclose(ensemble.logits[0], folds.logits[0])
    assert not np.allclose(ensemble.logits[0], soup.logits[0], atol=1e-4)
    order = np.argsort(logistic.logits[0][:, 1])
    assert logistic.labels[order, 1].tolist() == [0] * 10 + [1] * 10
