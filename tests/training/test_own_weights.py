"""A run that starts from another run: which weights it keeps, and what it says."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.run.own_weights import OwnWeights
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.train import train
from mlcls_jax.training.setup import open_run


def make_config(photos, model: Model) -> Config:
    return Config(
        recipe="none",
        data=Data(
            csv=str(photos / "labels.csv"), images=str(photos), batch_size=8, eval_batch_size=8
        ),
        model=model,
        phases=[Phase("head", "2 steps", [Group("head/.*", 1e-2)], ema=0.5)],
    )


def opened(config: Config, workdir) -> dict:
    """Returns the variables that a new run starts from."""
    context, state = open_run(config, workdir)
    context.services.close()
    return jax.device_get({"params": state.params, "batch_stats": state.batch_stats})


def renamed(photos, folder, header: str) -> str:
    """Writes labels.csv with other class names."""
    lines = (photos / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join([header, *lines[1:]]) + "\n")
    return str(folder / "labels.csv")


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["gap", "mldecoder"])
def test_a_new_run_starts_from_the_best_checkpoint_of_another(photos, tiny, tmp_path, capsys, head):
    width = 16 if head == "mldecoder" else Model().decoder_width
    model = Model(tiny, weights="", image_size=32, head=head, decoder_width=width)
    config, mine = make_config(photos, model), tmp_path / "mine"
    assert train(config, mine) == 0
    source = load_trained_model(mine, "best")
    trained = jax.device_get(source.variables)

    config.model = dataclasses.replace(model, weights=str(mine))
    capsys.readouterr()
    assert equal(opened(config, tmp_path / "same"), trained)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Weights of {mine}, checkpoint of step 2 (phase head)" in said
    assert "backbone and head (the same 3 classes)." in said

    assert "training images of" not in said  # the splits are the same

    config.data.split_seed += 1
    config.data.csv = renamed(photos, tmp_path, "filename,red,cat,dog")
    other = opened(config, tmp_path / "other")
    assert equal(other["params"]["backbone"], trained["params"]["backbone"])
    assert equal(other["batch_stats"], trained["batch_stats"])
    new, old = other["params"]["head"], trained["params"]["head"]
    per_class = (..., 0) if head == "gap" else (0,)
    np.testing.assert_array_equal(new["kernel"][per_class], old["kernel"][per_class])
    assert new["bias"][0] == old["bias"][0] and new["bias"][1] != old["bias"][1]
    assert not np.array_equal(new["kernel"], old["kernel"])
    if head == "mldecoder":
        assert equal(new["attention"], old["attention"])
    said = " ".join(capsys.readouterr().out.split())
    assert "the outputs of 1 of 3 classes." in said
    assert f"val images have the names of training images of {mine}; if they are" in said

    config.model.weights = f"{mine}/checkpoints/2"
    assert train(config, tmp_path / "trained") == 0  # all of it trains on
    config.model.variant = "b0"
    with pytest.raises(ValueError, match=r"=tiny, but model\.variant is b0; set --config"):
        open_run(config, tmp_path / "wrong")


@pytest.mark.slow
def test_a_finished_run_names_the_way_to_more_epochs(photos, tiny, tmp_path, capsys):
    config = make_config(photos, Model(tiny, weights="", image_size=32))
    config.phases[0].duration = "1 epoch"
    for _ in range(2):
        assert train(config, tmp_path / "mine") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("The run is finished; for more epochs, start a new run from its weights") == 1
    assert f"--resume-from {tmp_path}/mine --workdir {tmp_path}/mine-2 --epochs 1" in said


def test_a_network_of_the_user_keeps_everything_or_is_refused(capsys):
    variables, metadata = {"params": {"head": {"w": 1}}}, {"step": 7, "phase": "all"}
    model: Any = SimpleNamespace(classes=("a", "b"), variables=variables, metadata=metadata)
    network: Any = SimpleNamespace(custom="my_networks:vit")
    weights = OwnWeights(Path("mine"), model)
    assert weights.variables(network, ("a", "b"), {}, 0, {}) is variables
    assert (
        "Weights of mine, checkpoint of step 7 (phase all): all of it." in capsys.readouterr().out
    )
    with pytest.raises(
        ValueError, match="a custom network starts from a run with the same classes"
    ):
        weights.variables(network, ("b", "a"), {}, 0, {})
