"""Pushing to the Hub and loading from it, by huggingface_hub and a server on this machine."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from local_hub import local_hub

from mlcls_jax.models.weights.aliases import ALIASES

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.reference

PUSH = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from mlcls_jax.config import Config, Data, Model
from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.export.__main__ import push_model
from mlcls_jax.models.conventions import KERAS, LITE, PretrainedConfig
from mlcls_jax.models.weights.provenance import to_json
from mlcls_jax.run.trained_model import TrainedModel, prediction_step
from mlcls_jax.step.network import build_model, network_spec
from mlcls_jax.system import devices
import mlcls_jax as ml

folder = Path(sys.argv[1])
config = Config(
    data=Data(csv="/secret/labels.csv", eval_batch_size=2),
    model=Model(variant="lite0", image_size=64, weights="/secret/weights"),
)
names, weights = ("a|<b>", "green", "blue"), PretrainedConfig(KERAS, LITE)
network = network_spec(config.model, 3)
model = build_model(network, weights.convention)
variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
metadata = {
    "step": 7, "phase": "head", "classes": list(names), "val": None,
    "base_rate": {"frequencies": [0.1, 0.2, 0.3], "included_classes": [True] * 3},
    "pretrained_config": to_json(weights), "config": {"data": {"csv": "/secret/labels.csv"}},
}
mesh, rule = devices.make_mesh(), DecisionRule(None, (0.01, 0.99, 0.5), (1.0, 2.0, 1.0))
predict = prediction_step(network, weights, mesh)
run = TrainedModel(
    config, names, metadata, devices.replicate(variables, mesh), weights, rule, predict, mesh
)
(folder / "workdir").mkdir()
scores = {
    "step": 7, "num_images": 12, "values": {"mAP": 0.75, "loss": float("nan")},
    "base_rate": {"mAP": 0.25}, "mAP_interval": {"low": 0.625, "high": 0.875},
    "class_ap": {"green": 0.5},
}
(folder / "workdir" / "eval_val.json").write_text(json.dumps(scores))
_, name = push_model(run, folder / "workdir", folder / "pushed", "me/birds", private=True)
loaded = ml.load(name)
images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
logits = np.asarray(run.predict(run.variables, images))
found = loaded.predict(list(images)).to_numpy()
np.testing.assert_allclose(found, rule.probabilities(logits), atol=1e-6)
assert loaded.thresholds == dict(zip(names, rule.thresholds)) and loaded.step == 7
assert loaded.config.model.image_size == 64
loaded.export("stablehlo", folder / "exported")
pretrained = ml.load_pretrained(name)
assert pretrained.classes == names and pretrained.variant == "lite0"
try:
    loaded.evaluate()
except ValueError as error:
    assert "the data of the run are not there" in str(error)
np.savez(folder / "images", images=images, logits=logits)
print(name)
"""
TIMM = """
import sys
import numpy as np, torch
sys.path.append(sys.argv[3])
from reference_torch import import_torchvision
import_torchvision()
import timm
name, images = sys.argv[1], np.load(sys.argv[2])
model = timm.create_model(name, pretrained=True).eval()
of = model.pretrained_cfg
mean, std = (torch.tensor(of[key]).view(3, 1, 1) for key in ("mean", "std"))
with torch.inference_mode():
    found = model((torch.tensor(images["images"]).permute(0, 3, 1, 2) / 255 - mean) / std)
np.testing.assert_allclose(found.numpy(), images["logits"], atol=1e-5)
"""
CATALOG = """
from mlcls_jax.models.weights.catalog import CATALOG
from mlcls_jax.models.weights.download import local_file
try:
    print(local_file(CATALOG["timm:tf_efficientnet_b0.in1k"]))
except ValueError as error:
    print(error)
"""
COMMIT = """
import sys
from mlcls_jax.models.weights.aliases import resolve
from mlcls_jax.models.weights.download import local_file, with_commit
for name in sys.argv[1:]:
    try:
        pinned = with_commit(name, "b0")
        print(pinned)
        print(local_file(resolve(pinned, "b0")).read_text())
    except ValueError as error:
        print(error)
"""
ASK = """
import sys
from mlcls_jax.models.weights.hub import hub_folder
for name in sys.argv[1:]:
    try:
        print(hub_folder(name)[1])
    except ValueError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder, the server, and a function that runs code with its address."""
    pytest.importorskip("huggingface_hub")
    folder = tmp_path_factory.mktemp("hub")
    with local_hub() as (hub, url):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XLA_"))}
        kept |= {"HF_ENDPOINT": url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "hf_test"}
        kept |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}

        def run(code: str, *arguments: str, **variables: str) -> list[str]:
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                capture_output=True,
                text=True,
                env=kept | variables,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        yield folder, hub, run


@pytest.fixture(scope="module")
def pushed(place):
    """Returns the name of a model that was pushed and loaded again."""
    folder, _, run = place
    return run(PUSH, str(folder))[-1]


@pytest.mark.slow
def test_a_pushed_model_has_weights_a_card_and_no_path_of_this_machine(place, pushed):
    folder, hub, _ = place
    assert "me/birds" in hub.private
    (revision,) = hub.repos["me/birds"]
    assert pushed == f"hf-hub:me/birds@{revision}"
    files = hub.repos["me/birds"][revision]
    assert set(files) == {"README.md", "config.json", "mlcls_jax.json", "model.safetensors"}
    assert not any(b"/secret" in content for content in files.values())
    assert files["model.safetensors"] == (folder / "pushed/model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert "| mAP (mean average precision) | 0.7500 | 0.2500 | 0.6250 to 0.8750 |" in card
    assert "| loss (binary cross-entropy) |  |  |  |" in card  # no number
    assert "| a\\|\\<b\\> | 0.010 |  | 0.1000 |" in card
    assert "| green | 0.990 | 0.5000 | 0.2000 |" in card
    for text in (
        "hf-hub:me/birds",
        "### timm",
        "### JAX",
        "### ONNX",
        "(own['temperatures'].values())",
    ):
        assert text in card
    from huggingface_hub import ModelCard

    data = ModelCard(card).data
    assert data.library_name == "timm" and data.eval_results[0].metric_value == 0.75


@pytest.mark.slow
def test_timm_computes_the_same_logits(place, pushed):
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    folder, _, run = place
    tools = Path(__file__).parents[2] / "scripts/weights"
    run(TIMM, pushed, str(folder / "images.npz"), str(tools))


def test_a_branch_is_resolved_to_its_commit_and_the_cache_is_used_offline(place):
    _, hub, run = place
    files = {"config.json": b"{}", "model.safetensors": b"", "other.bin": b"0"}
    first, second = (hub.commit("me/two", files) for _ in range(2))
    asked = "hf-hub:me/two", f"hf-hub:me/two@{first}"
    names = [f"hf-hub:me/two@{second}", f"hf-hub:me/two@{first}"]
    assert run(ASK, *asked) == names
    assert not any("other.bin" in line for line in hub.asked)
    assert run(ASK, *asked, HF_HUB_OFFLINE="1") == names
    (line,) = run(ASK, "hf-hub:me/never", HF_HUB_OFFLINE="1")
    assert line.startswith("hf-hub:me/never: the Hub cannot be reached (or HF_HUB_OFFLINE is set)")


def test_names_of_timm_are_downloaded_by_the_package_unless_a_copy_is_there(place):
    folder, hub, run = place
    hub.commit("timm/tf_efficientnet_b0.in1k", {"model.safetensors": b"weights"})
    cache = folder / "cache"
    (path,) = run(CATALOG, MLCLS_JAX_CACHE=str(cache))
    assert Path(path).read_bytes() == b"weights" and Path(path).is_relative_to(folder / "hf")
    (line,) = run(
        CATALOG, MLCLS_JAX_CACHE=str(cache), HF_HUB_OFFLINE="1", HF_HOME=str(folder / "a")
    )
    assert "cannot download pretrained weights (hf-hub:timm/" in line
    copy = cache / "weights" / "tf_efficientnet_b0.in1k.safetensors"
    assert line.endswith(f"on any machine and put it at {copy}")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"by hand")
    assert run(CATALOG, MLCLS_JAX_CACHE=str(cache)) == [str(copy)]


def test_a_name_of_timm_is_resolved_to_its_commit(place):
    folder, hub, run = place
    name = ALIASES["imagenet"]["b0"]
    repo = name.replace("timm:", "timm/")
    first, second = (hub.commit(repo, {"model.safetensors": text}) for text in (b"old", b"new"))
    asked = "imagenet", name, f"{name}@{first}", f"{name}@main"
    expected = [f"{name}@{commit}" for commit in (second, second, first, second)]
    cache = folder / "cache of commits"
    lines = run(COMMIT, *asked, MLCLS_JAX_CACHE=str(cache))
    assert lines[::2] == expected and lines[1::2] == ["new", "new", "old", "new"]
    assert run(COMMIT, *asked, MLCLS_JAX_CACHE=str(cache), HF_HUB_OFFLINE="1") == lines
    (line,) = run(COMMIT, f"{name}@v9", MLCLS_JAX_CACHE=str(cache))
    assert f"(hf-hub:{repo}@v9: the repository has no such revision; check what follows" in line
    copy = cache / "weights" / f"{name.removeprefix('timm:')}.safetensors"
    copy.parent.mkdir(parents=True)
    copy.write_text("by hand")
    assert run(COMMIT, name, MLCLS_JAX_CACHE=str(cache)) == [name, "by hand"]


def test_what_the_hub_refuses_is_one_line(place):
    _, hub, run = place
    hub.commit("me/hidden", {"config.json": json.dumps({}).encode()})
    hub.private.add("me/hidden")
    lines = run(ASK, "hf-hub:me/none", "hf-hub:me/hidden@v9", "hf-hub:me", HF_HUB_DISABLE_XET="1")
    assert len(lines) == 3
    assert lines[0].startswith("hf-hub:me/none: there is no such repository, or it is private")
    assert lines[1] == (
        "hf-hub:me/hidden@v9: the repository has no such revision; check what follows the @"
    )
    assert lines[2].startswith("hf-hub:me names no repository of the Hugging Face Hub; write hf-hu")
    (line,) = run(ASK, "hf-hub:me/hidden", HF_TOKEN="")
    assert line.startswith("hf-hub:me/hidden: there is no such repository, or it is private or not")
    (line,) = run(ASK, "hf-hub:me/none", HF_ENDPOINT="http://127.0.0.1:9")
    assert line.startswith("hf-hub:me/none: the Hub cannot be reached")
