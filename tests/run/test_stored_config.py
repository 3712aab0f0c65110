"""How a run is found by its path, which command starts a new run from it, and edited configs."""

import dataclasses
import json
from pathlib import Path

import pytest

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.config.recipes import with_fields
from mlcls_jax.config.serialization import from_dict, to_json
from mlcls_jax.models.weights.aliases import ALIASES
from mlcls_jax.run.stored_config import (
    check_config_kept,
    check_unchanged,
    edited_fields,
    find_run,
    new_run,
    with_stored_revision,
)


def phases(*durations: str) -> list[Phase]:
    return [Phase(f"p{i}", text, [Group(".*", 1.0)]) for i, text in enumerate(durations)]


@pytest.mark.parametrize(
    ("durations", "option"),
    [
        ((), ""),
        (("6 epochs", "12 epochs"), " --epochs 0 12"),
        (("1 epoch", "0 steps"), " --epochs 1 0"),
        (("2.5 epochs",), " --epochs 2.5"),
        (("1 epoch", "300 steps"), ""),
        (("0 steps",), ""),
    ],
)
def test_the_command_of_a_new_run_trains_the_last_phase(durations, option):
    text = new_run(Path("runs/mine"), phases(*durations))
    assert text.endswith(f"--resume-from runs/mine --workdir runs/mine-2{option}")
    assert text.startswith("for more epochs, ") == bool(durations)


def test_a_run_is_found_by_its_folder_or_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("imagenet")  # also a name of weights
    (folder / "checkpoints" / "7").mkdir(parents=True)
    assert find_run(f"./{folder}") is None  # without config.json
    (folder / "config.json").write_text("{}")
    assert find_run("imagenet") is None
    assert find_run("") is None
    assert find_run(str(folder.absolute())) == (folder.absolute(), "best")
    assert find_run("./imagenet/checkpoints/7") == (folder, "7")
    assert find_run("./imagenet/checkpoints/seven") is None


def make_run(folder: Path, config: Config, step: int = 4) -> Path:
    """Writes the config of a run and the metadata of a checkpoint that has the same."""
    item = folder / "checkpoints" / str(step) / "metadata"
    item.mkdir(parents=True)
    (item / "metadata").write_text(json.dumps({"config": dataclasses.asdict(config)}))
    (folder / "config.json").write_text(to_json(config))
    return folder


def edit(workdir: Path, **fields) -> None:
    path = workdir / "config.json"
    edited = with_fields(from_dict(json.loads(path.read_text())), fields)
    path.write_text(to_json(edited))


def test_an_edited_config_is_refused_unless_it_is_accepted(tmp_path):
    workdir = make_run(tmp_path, Config())
    assert check_config_kept(workdir, accepted=False) == []
    edit(workdir, **{"model.image_size": 48, "seed": 7})
    said = r"model\.image_size: 0 -> 48.*these fields back.*--accept-changed-data"
    with pytest.raises(ValueError, match=said):
        check_config_kept(workdir, accepted=False)
    changed = check_config_kept(workdir, accepted=True)
    assert {line.split(":")[0] for line in changed} == {"model.image_size", "seed"}
    saved = dataclasses.asdict(Config())
    assert edited_fields(workdir, saved, ["model"]) == ["model.image_size: 0 -> 48"]


def test_paths_and_how_a_run_works_may_be_edited(tmp_path):
    workdir = make_run(tmp_path, Config())
    free = {"data.csv": "moved.csv", "data.images": "there", "data.threads": 3, "log_every": 7}
    edit(workdir, **free, minutes=5.0)
    assert check_config_kept(workdir, accepted=False) == []


def test_the_config_of_all_folds_is_compared_with_that_of_a_fold(tmp_path):
    all_folds = Config(data=Data(folds=3))
    make_run(tmp_path / "fold-0", with_fields(all_folds, {"data.fold": 0}))
    (tmp_path / "config.json").write_text(to_json(all_folds))
    assert check_config_kept(tmp_path, accepted=False) == []
    edit(tmp_path, seed=7)
    with pytest.raises(ValueError, match=r"seed: \d+ -> 7"):
        check_config_kept(tmp_path, accepted=False)


@pytest.mark.parametrize("metadata", ["{}", "[]", "{", '{"config": {"of another": "version"}}'])
def test_a_checkpoint_without_a_config_that_can_be_read_is_not_compared(tmp_path, metadata):
    workdir = make_run(tmp_path, Config())
    (workdir / "checkpoints" / "4" / "metadata" / "metadata").write_text(metadata)
    edit(workdir, seed=7)
    assert check_config_kept(workdir, accepted=False) == []


def test_the_newest_checkpoint_counts(tmp_path):
    make_run(tmp_path, Config(seed=1), step=4)
    make_run(tmp_path, Config(seed=2), step=10)
    assert check_config_kept(tmp_path, accepted=False) == []


@pytest.mark.parametrize(
    ("given", "stored", "expected"),
    [
        ("hf-hub:me/birds", "hf-hub:me/birds@1f", "hf-hub:me/birds@1f"),
        ("hf-hub:me/birds@v2", "hf-hub:me/birds@1f", "hf-hub:me/birds@v2"),
        ("hf-hub:me/birds", "hf-hub:me/birds2@1f", "hf-hub:me/birds"),
        ("imagenet", "hf-hub:me/birds@1f", "imagenet"),
        ("timm:a.b", "timm:a.b@1f", "timm:a.b@1f"),
        ("imagenet", f"{ALIASES['imagenet']['b0']}@1f", f"{ALIASES['imagenet']['b0']}@1f"),
        ("advprop", f"{ALIASES['imagenet']['b0']}@1f", "advprop"),
        ("a", "a@1f", "a"),
    ],
)
def test_the_command_of_a_run_continues_it_at_the_commit_that_it_has_read(
    given, stored, expected, tmp_path
):
    assert with_stored_revision(Model(weights=given), Model(weights=stored)).weights == expected
    (tmp_path / "config.json").write_text(to_json(Config(model=Model(weights=stored))))
    if stored == expected:
        check_unchanged(tmp_path, Config(model=Model(weights=given)))
    else:
        with pytest.raises(ValueError, match="holds a run with another config"):
            check_unchanged(tmp_path, Config(model=Model(weights=given)))
