"""Shared fixtures: eight virtual devices, generated images, and a network that trains fast."""

import functools
import gc
import os
import signal
from importlib.metadata import version
from pathlib import Path

# Most of the time of the tests is compilation. Without the last flag, which XLA may remove one day,
# it takes twice as long. Flags of the environment stay, such as --xla_cpu_max_isa=AVX2, except
# for these: of two equal flags, XLA uses the last.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from mlcls_jax.config import Config, Data, Model
from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.models.conventions import KERAS, LITE, PretrainedConfig
from mlcls_jax.models.variants import VARIANTS, Variant
from mlcls_jax.models.weights import load
from mlcls_jax.report import charts
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.network import build_model, network_spec
from mlcls_jax.step.train_step import make_eval_step
from mlcls_jax.system import devices, distributed, threads

CLASSES = ("red", "green", "blue")

# No deadline, because the time of an example depends on the load of the machine.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Tracing makes millions of long-lived objects. With the default thresholds, scanning them for
# garbage takes a tenth of the time.
gc.set_threshold(50_000, 20, 100)


# A job in the background of a script ignores SIGINT, and so would all processes of the tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    """Adds --reference, because an option -m of a command would replace one of pyproject.toml."""
    parser.addoption(
        "--reference",
        action="store_true",
        help="run the tests marked `reference`, and no others; they need the extra reference",
    )


def pytest_collection_modifyitems(config, items):
    """Deselects the tests that need other implementations, or with --reference all others."""
    wanted = config.getoption("--reference")
    marked = [item.get_closest_marker("reference") is not None for item in items]
    dropped = [item for item, mark in zip(items, marked, strict=True) if mark != wanted]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item, mark in zip(items, marked, strict=True) if mark == wanted]
    # The tests of whole commands take longest. Started last, one would run alone at the end.
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs_are_kept(tmp_path_factory):
    """Keeps compiled programs until the tests end, in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCLS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        distributed.start()
        yield


@pytest.fixture(scope="session", autouse=True)
def _networks_are_traced_once():
    """Caches the variable shapes of networks, which take most of a second each to trace."""
    variable_shapes = load.variable_shapes

    @functools.cache
    def traced(model, variant):
        return variable_shapes(model)

    def shapes(model):
        return traced(model, VARIANTS[model.variant])  # a test may replace the variant of a name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "variable_shapes", shapes)
        yield


@pytest.fixture(scope="session", autouse=True)
def _charts_are_empty():
    """Leaves the charts of reports empty, as each takes a quarter of a second to draw.

    tests/report draws them.
    """

    def empty(title, _):
        return Markup(f'<svg aria-label="{title}"></svg>')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "_chart", empty)
        yield


@pytest.fixture(autouse=True)
def _no_thread_is_left(monkeypatch):
    """Forgets failed saves after each test, because a command would then leave without its end."""
    monkeypatch.setattr(threads, "_left", [])


@pytest.fixture
def tiny(monkeypatch):
    """Returns the name of a variant with one narrow block per stage."""
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True))
    return "tiny"


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Returns a folder with 40 images of coloured squares, and labels.csv."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    lines = ["filename," + ",".join(CLASSES)]
    for index in range(40):
        image = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
        labels = [int(index % 3 == 0), int(index % 2 == 0), int(rng.random() < 0.4)]
        for channel, present in enumerate(labels):
            top, left = rng.integers(0, 24, 2)
            if present:
                image[top : top + 14, left : left + 14, channel] = 255
        Image.fromarray(image).save(folder / f"{index:02}.png")
        lines.append(f"{index:02}.png," + ",".join(map(str, labels)))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """Returns the workdir of a run of two steps on `photos`."""
    import mlcls_jax as ml

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True))
        config = ml.Config(
            recipe="none",
            data=ml.Data(
                csv=str(photos / "labels.csv"), images=str(photos), batch_size=8, eval_batch_size=8
            ),
            model=ml.Model(variant="tiny", weights="", image_size=32),
            phases=[ml.Phase("all", "2 steps", [ml.Group(".*", 1e-2)])],
        )
        yield ml.train(config, tmp_path_factory.mktemp("runs") / "run").workdir


@pytest.fixture
def empty_bucket(monkeypatch):
    """Returns fsspec's file system in memory, in which memory://bucket is empty.

    No copy of a folder in it is known before or after the test.
    """
    import fsspec

    from mlcls_jax.system import bucket

    monkeypatch.setattr(bucket, "_copies", [])
    files = fsspec.filesystem("memory")
    yield files
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


@pytest.fixture(scope="module")
def run():
    """Returns a tiny network with random weights, and thresholds that decide two classes."""
    names = ("<img src=x onerror=alert(1)>", "green", "blue")  # a CSV can contain any name
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
