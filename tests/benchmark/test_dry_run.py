"""`train --dry-run`: its output, and no file but the contact sheet."""

import pytest
from PIL import Image

from mlcls_jax.benchmark.dry_run import Estimate, dry_run, print_estimates
from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.run.workdir import SHEET, prepare


def test_a_dry_run_prints_estimates_and_draws_a_contact_sheet(photos, tiny, tmp_path, capsys):
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
    output = capsys.readouterr().out
    assert "first batch: uint8 [8, 32, 32, 3] images, int8 [8, 3] labels" in output
    for name in ("head: steps 1 to 11", "tail: steps 12 to 19", "evaluation", "2 x val", "About"):
        assert name in output
    assert "data.cache" in output
    assert [file.name for file in tmp_path.iterdir()] == [SHEET]
    with Image.open(tmp_path / SHEET) as sheet:
        assert sheet.width > 6 * 32
    prepare(tmp_path, config, ("red", "green", "blue"))  # a run can still start there


def test_the_times_are_added_up(capsys):
    rows = [Estimate(name, "7", 2 * 10**9, 50.0, 3600.0) for name in ("head", "evaluation")]
    print_estimates(rows)
    output = capsys.readouterr().out
    assert "2.00 GB" in output and "1:00:00" in output
    assert "About 2:00:00 in total" in output


def test_a_dry_run_refuses_several_processes(monkeypatch, tmp_path):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match="--dry-run needs a single process"):
        dry_run(Config(), tmp_path)
