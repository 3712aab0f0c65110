"""`train --dry-run`: all that is said, and nothing that lasts."""

import pytest
from PIL import Image

from mlcls_jax.benchmark.dry_run import Estimate, dry_run, print_estimates
from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.run.workdir import SHEET, prepare


def test_it_says_what_would_happen_and_leaves_a_sheet(photos, tiny, tmp_path, capsys):
    config = Config(
        data=Data(
            csv=str(photos / "labels.csv"),
            images=str(photos),
            batch_size=8,
            eval_batch_size=8,
            cache="memory",
        ),
        model=Model(variant=tiny, weights="", image_size=32),
        phases=[
            Phase("head", "3 epochs", [Group("head/.*", 1e-2)], cached_views=1),
            Phase("tail", "2 epochs", [Group("head/.*", 1e-2)], ema=0.9),
        ],
    )
    assert dry_run(config, tmp_path) == 0
    said = capsys.readouterr().out
    assert "first batch: uint8 [8, 32, 32, 3] images, int8 [8, 3] labels" in said
    for name in ("head: steps 1 to 11", "tail: steps 12 to 19", "evaluation", "2 times", "About"):
        assert name in said
    assert "without data.cache" in said
    assert [file.name for file in tmp_path.iterdir()] == [SHEET]
    with Image.open(tmp_path / SHEET) as sheet:
        assert sheet.width > 6 * 32
    prepare(tmp_path, config, ("red", "green", "blue"))  # a run can begin there


def test_the_times_are_added_up(capsys):
    rows = [Estimate(name, "7", 2 * 10**9, 50.0, 3600.0) for name in ("head", "evaluation")]
    print_estimates(rows)
    said = capsys.readouterr().out
    assert "2.00 GB" in said and "1:00:00" in said
    assert "About 2:00:00 in all" in said


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match="--dry-run is for one process"):
        dry_run(Config(), tmp_path)
