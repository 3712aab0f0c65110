"""What all processes of a run must have in common, and what may differ between machines."""

from dataclasses import replace

import numpy as np
import pytest

from mlcls_jax.config import Config, Data, Model
from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.system import distributed
from mlcls_jax.training import consistency
from mlcls_jax.training.consistency import (
    PACKAGES,
    config_facts,
    data_facts,
    disagreement,
    weights_hash,
)

TABLE = LabelTable(
    "photos", ("a.jpg", "b.jpg"), np.array([[1, 0], [-1, 1]], np.int8), ("cat", "dog")
)
SPLITS = {"train": TABLE, "val": TABLE.take([0])}


def test_the_same_facts_are_no_disagreement():
    facts = config_facts(Config())
    assert disagreement([facts, config_facts(Config()), facts]) == ""


def test_fields_and_packages_that_differ_are_named_with_the_process():
    ours, theirs = Config(seed=3), Config(seed=3)
    theirs.phases[1].groups[0].learning_rate = 0.5
    facts = [config_facts(ours), config_facts(ours), config_facts(theirs) | {"jax": "0.0"}]
    said = disagreement(facts)
    assert "phases[1].groups[0].learning_rate: 0.0005 in process 0, 0.5 in process 2" in said
    assert "jax: " in said and "0.0 in process 2" in said and "seed" not in said


def test_a_phase_that_only_one_has_is_absent_in_the_other():
    ours, theirs = Config(), Config()
    del theirs.phases[1]
    said = disagreement([config_facts(ours), config_facts(theirs)])
    assert "phases[1].name: 'finetune' in process 0, absent in process 1" in said


def test_folders_and_threads_may_differ_and_nothing_else_may():
    here = Config(
        data=Data(csv="/a/x.csv", images="/a", threads=1), model=Model(weights="/a/b0.h5")
    )
    there = Config(data=Data(csv="/b/x.csv", images="/b", threads=2), model=Model(weights="b0.h5"))
    assert disagreement([config_facts(here), config_facts(there)]) == ""
    assert "model.weights" in config_facts(Config())  # a name is the same everywhere
    fields = set(config_facts(here)) - {*PACKAGES, "mlcls_jax"}
    per_machine = {path for path in flatten_of(here) if path not in fields}
    folders = {"csv", "images", "val_csv", "val_images", "test_csv", "test_images"}
    folders |= {"categories", "class_names", "corrections"}
    folders |= {"cache_folder", "threads"}
    assert per_machine == {"model.weights"} | {f"data.{name}" for name in folders}


def flatten_of(config):
    from dataclasses import asdict

    return flatten_fields(asdict(config))


def test_the_folder_of_a_table_is_no_fact():
    assert data_facts(SPLITS) == data_facts(
        {name: replace(table, folder="elsewhere") for name, table in SPLITS.items()}
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"classes": ("dog", "cat")}, "classes"),
        ({"filenames": ("a.jpg", "c.jpg")}, "file names of train (data.csv)"),
        ({"labels": np.array([[1, 0], [0, 1]], np.int8)}, "labels of train (data.csv)"),
    ],
)
def test_classes_file_names_and_labels_are_facts(change, named):
    theirs = SPLITS | {"train": replace(TABLE, **change)}
    said = disagreement([data_facts(SPLITS), data_facts(theirs)])
    assert said.startswith(f"{named}: ") and "; " not in said


def test_a_split_that_only_one_has_is_named():
    said = disagreement([data_facts(SPLITS), data_facts(SPLITS | {"test": TABLE})])
    assert "file names of test (data.csv): absent in process 0" in said


def test_weights_of_a_run_are_compared_by_their_checksums(tmp_path):
    run, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoints" / "7"
    checkpoint.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert weights_hash(str(run)).startswith("unreadable: ")
    (checkpoint / "SHA256SUMS").write_text("ours")
    before = weights_hash(str(run))
    assert weights_hash(str(checkpoint)) == before
    (checkpoint / "SHA256SUMS").write_text("theirs")
    assert weights_hash(str(run)) != before


def test_other_weights_and_a_workdir_that_is_not_shared_are_refused(tmp_path, monkeypatch):
    """The other process has a different weight file and no checkpoint."""
    weights = tmp_path / "b0.h5"
    weights.write_bytes(b"ours")
    config = Config(model=Model(weights=str(weights)))

    def refused(workdir, name):
        with pytest.raises(ValueError, match=r"must have the same data, but they differ") as info:
            consistency.check_data(SPLITS, config.model.weights, workdir)
        assert name in str(info.value)

    monkeypatch.setattr(distributed, "is_multiprocess", lambda: True)
    other = {}

    def exchange(topic, text):
        return [text, other.setdefault(topic, text)]

    monkeypatch.setattr(distributed, "exchange", exchange)
    consistency.check_data(SPLITS, config.model.weights, tmp_path)
    consistency.check_config(config)
    weights.write_bytes(b"theirs")
    refused(tmp_path, "contents of model.weights")
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    refused(tmp_path, "[20] in process 0, [] in process 1")
