"""tune searches a config, continues a search, and writes a config that trains."""

import json
import math

import pandas as pd
import pytest

from mlcls_jax.config.loading import load_config
from mlcls_jax.options.tune import config_of, parse, trial_config

CONFIG = """
from mlcls_jax.config import Config, Data, Group, Model, Phase

def get_config():
    return Config(
        recipe="none",
        data=Data(csv={csv!r}, images={images!r}, batch_size=8, eval_batch_size=8, folds=2),
        model=Model(variant="tiny", weights="", image_size=32),
        phases=[
            Phase("head", "2 steps", [Group("head/.*", 1e-2)], cached_views=1),
            Phase("finetune", "2 steps", [Group(".*", 1e-3)]),
        ],
    )
"""


@pytest.fixture
def config(photos, tmp_path, tiny):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(csv=str(photos / "labels.csv"), images=str(photos)))
    return path


def arguments(config, workdir, *extra: str) -> list[str]:
    return ["--config", str(config), "--workdir", str(workdir), *extra]


def test_a_trial_trains_the_head_only_and_needs_cached_features(config, tmp_path):
    options, overrides = parse(arguments(config, tmp_path / "t"))
    assert [p.duration for p in trial_config(options, overrides).phases] == ["2 steps", "0 steps"]
    options, overrides = parse(arguments(config, tmp_path / "t", "--finetune"))
    assert [p.duration for p in trial_config(options, overrides).phases] == ["2 steps"] * 2
    options, overrides = parse(arguments(config, tmp_path / "t", "--config.recipe=best"))
    trial = trial_config(options, overrides)
    assert (trial.recipe, trial.data.folds, trial.data.refit) == ("auto", 2, False)
    options, overrides = parse(
        arguments(config, tmp_path / "t", "--config.phases[0].cached_views=0")
    )
    with pytest.raises(ValueError, match="no phase of the config has cached_views; add --finetune"):
        config_of(options, overrides)


def test_the_space_has_the_values_of_the_config(config, tmp_path):
    pytest.importorskip("optuna")
    from mlcls_jax.tune.space import defaults, space

    values = {
        "phases[0].cached_views": 1,
        "phases[0].groups[0].learning_rate": 1e-2,
        "phases[0].groups[0].weight_decay": 0.0,
        "phases[1].cached_views": 0,
        "phases[1].groups[0].learning_rate": 1e-3,
        "augment.symmetry": "h",
        "augment.rand_augment": None,
        "augment.mixup": 0.3,
        "loss.name": "bce",
        "loss.label_smoothing": 0.2,
        "model.dropout": None,
        "model.head": "gap",
    }
    found = space(values, 0.6, finetune=False, decoder=False)
    assert sorted(found) == [
        *("loss.label_smoothing", "loss.name", "model.dropout", "phases[0].cached_views"),
        *("phases[0].groups[0].learning_rate", "phases[0].groups[0].weight_decay"),
    ]
    everything = space(values, 0.6, finetune=True, decoder=True)
    assert {"model.head", "phases[1].groups[0].learning_rate", "augment.mixup"} <= set(everything)
    first = defaults(values, 0.6, everything)
    assert first["model.dropout"] == 0.6 and first["augment.rand_augment"] == 0
    for path, value in first.items():
        assert everything[path]._contains(everything[path].to_internal_repr(value)), path


def test_a_search_continues_and_its_best_config_trains(config, tmp_path, capsys, monkeypatch):
    optuna = pytest.importorskip("optuna")
    from mlcls_jax.tune.__main__ import main

    workdir = tmp_path / "tune"
    assert main(arguments(config, workdir, "--trials", "2")) == 0
    out = capsys.readouterr().out
    assert "trial 0: reads all images first" in out and "trial 0: mAP " in out
    assert main(arguments(config, workdir, "--trials", "3")) == 0
    out = capsys.readouterr().out
    assert "trial 2: mAP " in out and "trial 1" not in out.split("\n")[0]
    frame = pd.read_csv(workdir / "tune.csv")
    assert sorted(frame["trial"]) == [0, 1, 2]
    assert (frame["mAP"].diff().dropna() <= 0).all()
    first = frame[frame["trial"] == 0].iloc[0]
    assert first["phases[0].groups[0].learning_rate"] == 1e-2 and first["loss.name"] == "bce"
    result = json.loads((workdir / "trials/000/eval_out_of_fold.json").read_text())
    assert first["mAP"] == pytest.approx(result["fold_mean"]["mAP"])
    assert not (workdir / "trials/000/fold-0/checkpoints").exists()
    assert "phases[0].groups[0].learning_rate" in (workdir / "tune.svg").read_text()
    best = load_config(str(workdir / "best.py"), [])
    assert best.loss.name == frame.iloc[0]["loss.name"] and best.phases[1].duration == "2 steps"
    assert best.data.folds == 2
    with pytest.raises(ValueError, match="has a search with sampler='tpe', not 'random'"):
        main(arguments(config, workdir, "--trials", "3", "--sampler", "random"))
    assert optuna.logging.get_verbosity() >= optuna.logging.WARNING


def test_what_the_best_trial_changed_is_printed_by_field(capsys):
    results = pytest.importorskip("mlcls_jax.tune.results")
    scores = {"trial": [3, 0], "mAP": [0.8, 0.7], "deviation": [0.01, 0.02], "seconds": [4.2, None]}
    frame = pd.DataFrame(scores | {"loss.name": ["asl", "bce"], "model.dropout": [0.123456, 0.2]})
    results.print_trials(frame, "mAP")
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["3", "0.8000", "0.0100", "4"] in lines
    assert ["config", "0.7000", "0.0200", "–"] in lines
    assert ["model.dropout", "0.2", "0.123"] in lines
    results.print_trials(frame.drop(columns="loss.name"), "mAP")
    assert "trial 3 " in capsys.readouterr().out  # not 3.0, although all columns are numbers
    results.print_trials(frame.iloc[1:].reset_index(drop=True), "mAP")
    assert "field" not in capsys.readouterr().out  # nothing was better than the config


def test_a_stopped_trial_is_continued_and_a_loss_that_is_not_finite_is_no_score(tmp_path):
    optuna = pytest.importorskip("optuna")
    from mlcls_jax.tune.search import Search

    space = {"rate": optuna.distributions.FloatDistribution(0.0, 1.0)}
    search = Search(tmp_path, space, {"rate": 0.5}, True, "random", 0, {})
    runs, ended = [], []

    def run(number, values):
        runs.append((number, values["rate"]))
        if len(runs) == 2:
            raise KeyboardInterrupt
        if number == 2:
            raise FloatingPointError
        return values["rate"]

    with pytest.raises(KeyboardInterrupt):
        search.run(4, run, ended.append)
    search.run(4, run, ended.append)
    assert [number for number, _ in runs] == [0, 1, 1, 2, 3]
    assert runs[0] == (0, 0.5) and runs[1] == runs[2]
    values = [one.value for one in search.trials()]
    assert len(values) == 3 and values == sorted(values, reverse=True)
    assert [one.value is None for one in ended] == [False, False, True, False]
    assert not any(map(math.isnan, values))
