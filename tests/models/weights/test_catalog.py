"""Compares the catalog with Keras and timm."""

import ast
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlcls_jax.models import conventions
from mlcls_jax.models.conventions import from_unit
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.catalog import CATALOG


def entries_of(publisher):
    prefix = f"{publisher}:"
    return {n.removeprefix(prefix): e for n, e in CATALOG.items() if n.startswith(prefix)}


@pytest.mark.reference
def test_keras_files_and_their_sums_are_those_of_keras():
    from keras.src.applications import efficientnet, efficientnet_v2

    expected = {}
    for module, stem in ((efficientnet, "efficientnet"), (efficientnet_v2, "efficientnetv2-")):
        for variant, sums in module.WEIGHTS_HASHES.items():
            for suffix, md5 in zip(("", "_notop"), sums, strict=True):
                name = f"{stem}{variant.removeprefix('-')}{suffix}"
                expected[name] = (f"{module.BASE_WEIGHTS_PATH}{name}.h5", md5)
    assert {name: (entry.url, entry.md5) for name, entry in entries_of("keras").items()} == expected


def test_keras_sizes_and_crops_are_those_of_the_same_networks_in_timm():
    for name, entry in entries_of("keras").items():
        twins = [s for n, s in entries_of("timm").items() if n.startswith("tf_") and s.top1]
        twins = [s for s in twins if (s.variant, s.trained_on) == (entry.variant, "ImageNet-1k")]
        assert {s.image_size for s in twins} == {entry.image_size}, name
        for twin in twins:
            assert entry.crop == pytest.approx(twin.crop, abs=1e-3), name
            assert entry.top1 is None or entry.top1[1] == twin.top1[1], name


@pytest.fixture(scope="module")
def timm_configs():
    """Returns timm's configs of its files, by model.tag.

    Part of its module is executed here, because `import timm` needs a torchvision that fits torch.
    """
    folder = Path(find_spec("timm").submodule_search_locations[0])
    path = folder / "models" / "efficientnet.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    needed = ("def _cfg(", "default_cfgs = ")
    tree.body = [node for node in tree.body if ast.unparse(node).startswith(needed)]
    scope = runpy.run_path(str(folder / "data" / "constants.py")) | {"generate_default_cfgs": dict}
    exec(compile(tree, str(path), "exec"), scope)
    return {n: c for n, c in scope["default_cfgs"].items() if not n.endswith(".untrained")}


@pytest.mark.reference
def test_timm_entries_are_those_of_timm(timm_configs):
    for name, entry in entries_of("timm").items():
        config = timm_configs[name]
        assert entry.image_size == config["input_size"][-1], name
        assert entry.crop == config["crop_pct"], name
        assert entry.interpolation == config["interpolation"], name
        assert entry.num_classes == config["num_classes"], name
        assert entry.normalization == from_unit(config["mean"], config["std"]), name
        assert config["hf_hub_id"] == "timm/", name


@pytest.mark.reference
def test_the_catalog_has_all_files_of_timm_for_these_networks(timm_configs):
    scales = {f"v2_{v[2:]}" if v.startswith("v2") else f"_{v}" for v in VARIANTS}
    models = {f"{stem}{scale}" for stem in ("efficientnet", "tf_efficientnet") for scale in scales}
    assert entries_of("timm").keys() == {
        name for name in timm_configs if name.split(".")[0] in models
    }


def test_every_variant_has_an_entry_and_every_entry_its_own_file_name():
    assert {entry.variant for entry in CATALOG.values()} == VARIANTS.keys()
    files = [entry.filename for entry in CATALOG.values() if entry.url]
    assert len(files) == len(set(files))
    assert CATALOG["timm:tf_efficientnet_b0.in1k"].filename == "tf_efficientnet_b0.in1k.safetensors"
    assert CATALOG["keras:efficientnetb0_notop"].filename == "efficientnetb0_notop.h5"


@pytest.mark.parametrize(
    "prefix, convention",
    [
        ("keras:efficientnetb", conventions.KERAS),
        ("keras:efficientnetv2", conventions.KERAS_V2),
        ("timm:tf_", conventions.TIMM_TF),
        ("timm:efficientnet", conventions.TIMM),
        ("pypi:", conventions.LUKEMELAS),
    ],
)
def test_conventions(prefix, convention):
    found = [s for name, s in CATALOG.items() if name.startswith(prefix)]
    assert found
    assert {s.convention for s in found} == {convention}


def test_tags_of_timm_agree_with_the_training_data():
    words = {"in21k": "21k", "in12k": "12k", "ns_jft": "JFT-300M", "ap": "AdvProp"}
    for name, entry in entries_of("timm").items():
        tag = name.split(".")[1]
        for part, word in words.items():
            assert (part in tag.replace("sw_", "")) == (word in entry.trained_on), name
        assert ("1k" in entry.trained_on.replace("21k", "")) == (entry.num_classes == 1000), name


def test_only_files_with_an_imagenet_head_have_an_accuracy():
    for name, entry in CATALOG.items():
        assert (entry.top1 is not None) == (entry.num_classes == 1000), name
