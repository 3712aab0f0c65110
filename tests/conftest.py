"""Eight virtual devices, and a network small enough to train in a test."""

import functools
import gc
import os
from importlib.metadata import version

# Compiling is most of what these tests do, and without the last flag, which XLA may drop one day,
# it takes twice the time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mlcls_jax.config import Config, Data, Model
from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.models.conventions import KERAS, LITE, PretrainedConfig
from mlcls_jax.models.variants import VARIANTS, Variant
from mlcls_jax.models.weights import load
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.network import build_model, network_spec
from mlcls_jax.step.train_step import make_eval_step
from mlcls_jax.system import devices, distributed

CLASSES = ("red", "green", "blue")

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Tracing makes millions of objects that stay, and looking through them again and again for garbage
# took a tenth of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs_are_kept(tmp_path_factory):
    """As in a run, small ones as well, and until the tests end: nothing is left in the home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCLS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        distributed.start()
        yield


@pytest.fixture(scope="session", autouse=True)
def _networks_are_traced_once():
    """For the shapes that a weight file is compared with: most of a second, for each file."""
    variable_shapes = load.variable_shapes

    @functools.cache
    def traced(model, variant):
        return variable_shapes(model)

    def shapes(model):
        return traced(model, VARIANTS[model.variant])  # a test may give a name to another variant

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "variable_shapes", shapes)
        yield


@pytest.fixture
def tiny(monkeypatch):
    """The name of a variant with one narrow block per stage."""
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True))
    return "tiny"


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with 40 images of coloured squares and labels.csv, as a user has them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    lines = ["filename," + ",".join(CLASSES)]
    for number in range(40):
        image = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
        there = [int(number % 3 == 0), int(number % 2 == 0), int(rng.random() < 0.4)]
        for channel, present in enumerate(there):
            top, left = rng.integers(0, 24, 2)
            if present:
                image[top : top + 14, left : left + 14, channel] = 255
        Image.fromarray(image).save(folder / f"{number:02}.png")
        lines.append(f"{number:02}.png," + ",".join(map(str, there)))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run():
    """A tiny network with random weights, its thresholds below and above all it will say."""
    names = ("<img src=x onerror=alert(1)>", "green", "blue")  # as a CSV could call them
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True))
        config = Config(data=Data(eval_batch_size=8), model=Model(variant="tiny", image_size=64))
        pretrained_config = PretrainedConfig(KERAS, LITE)
        model, mesh = (
            build_model(network_spec(config.model, len(names)), pretrained_config.convention),
            devices.make_mesh(),
        )
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        yield TrainedModel(
            config,
            names,
            {"step": 1, "phase": "head"},
            devices.replicate(variables, mesh),
            pretrained_config,
            DecisionRule(None, (0.01, 0.99, 0.5), (1.0, 2.0, 1.0)),
            make_eval_step(model, pretrained_config.normalization, mesh),
            mesh,
        )
