"""`train --dry-run`: its output, and no file but the contact sheet."""

import pytest
from PIL import Image

from mlcls_jax.benchmark.dry_run import Estimate, dry_run, plan_minutes, print_estimates
from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.run.workdir import SHEET, prepare
from mlcls_jax.train import train


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


def make_config(photos, variant, minutes: float) -> Config:
    return Config(
        minutes=minutes,
        data=Data(
            csv=str(photos / "labels.csv"), images=str(photos), batch_size=8, eval_batch_size=8
        ),
        model=Model(variant=variant, weights="", image_size=32),
        phases=[
            Phase("head", "1 epoch", [Group("head/.*", 1e-2)], cached_views=1),
            Phase("finetune", "3 epochs", [Group("head/.*", 1e-2), Group("backbone/top/.*", 1e-2)]),
        ],
    )


@pytest.mark.slow
def test_minutes_plan_the_epochs_once(photos, tiny, tmp_path, capsys):
    workdir, config = tmp_path / "run", make_config(photos, tiny, minutes=60)
    assert train(config, workdir) == 0
    assert "planned: everything that the config says" in capsys.readouterr().out
    # the run keeps its plan, whatever time is left
    assert train(make_config(photos, tiny, minutes=1e-6), workdir) == 0
    assert "Measuring" not in capsys.readouterr().out


def test_too_few_minutes_are_refused(photos, tiny, tmp_path):
    config, workdir = make_config(photos, tiny, minutes=1e-6), tmp_path / "run"
    config.data.folds, config.data.refit = 2, True
    refused = "--minutes 1e-06 for 3 runs is too little: an epoch of finetune"
    with pytest.raises(ValueError, match=refused):
        train(config, workdir)
    assert not workdir.exists()


def test_minutes_refuse_several_processes(monkeypatch, tmp_path):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match="--minutes needs a single process"):
        plan_minutes(Config(minutes=1), tmp_path, 0.0)
