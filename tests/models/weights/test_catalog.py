import ast
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlcls_jax.models import conventions
from mlcls_jax.models.conventions import from_unit
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.catalog import CATALOG


def of(publisher):
    prefix = f"{publisher}:"
    return {n.removeprefix(prefix): s for n, s in CATALOG.items() if n.startswith(prefix)}


def test_keras_files_and_their_sums_are_those_of_keras():
    from keras.src.applications import efficientnet, efficientnet_v2

    expected = {}
    for module, stem in ((efficientnet, "efficientnet"), (efficientnet_v2, "efficientnetv2-")):
        for variant, sums in module.WEIGHTS_HASHES.items():
            for suffix, md5 in zip(("", "_notop"), sums, strict=True):
                name = f"{stem}{variant.removeprefix('-')}{suffix}"
                expected[name] = (f"{module.BASE_WEIGHTS_PATH}{name}.h5", md5)
    assert {name: (source.url, source.md5) for name, source in of("keras").items()} == expected


def test_keras_sizes_and_crops_are_those_of_the_same_networks_in_timm():
    for name, source in of("keras").items():
        twins = [s for n, s in of("timm").items() if n.startswith("tf_") and s.top1]
        twins = [s for s in twins if (s.variant, s.trained_on) == (source.variant, "ImageNet-1k")]
        assert {s.image_size for s in twins} == {source.image_size}, name
        for twin in twins:
            assert source.crop == pytest.approx(twin.crop, abs=1e-3), name
            assert source.top1 is None or source.top1[1] == twin.top1[1], name


@pytest.fixture(scope="module")
def timm_configs():
    """What timm says of its files, by model.tag.

    Executed out of the text of its module, as `import timm` needs a torchvision that fits torch.
    """
    folder = Path(find_spec("timm").submodule_search_locations[0])
    path = folder / "models" / "efficientnet.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    needed = ("def _cfg(", "default_cfgs = ")
    tree.body = [node for node in tree.body if ast.unparse(node).startswith(needed)]
    scope = runpy.run_path(str(folder / "data" / "constants.py")) | {"generate_default_cfgs": dict}
    exec(compile(tree, str(path), "exec"), scope)
    return {n: c for n, c in scope["default_cfgs"].items() if not n.endswith(".untrained")}


def test_timm_files_are_as_timm_says(timm_configs):
    for name, source in of("timm").items():
        config = timm_configs[name]
        assert source.image_size == config["input_size"][-1], name
        assert source.crop == config["crop_pct"], name
        assert source.interpolation == config["interpolation"], name
        assert source.num_classes == config["num_classes"], name
        assert source.normalization == from_unit(config["mean"], config["std"]), name
        assert config["hf_hub_id"] == "timm/", name


def test_timm_files_are_all_that_timm_has_of_these_networks(timm_configs):
    scales = {f"v2_{v[2:]}" if v.startswith("v2") else f"_{v}" for v in VARIANTS}
    models = {f"{stem}{scale}" for stem in ("efficientnet", "tf_efficientnet") for scale in scales}
    assert of("timm").keys() == {name for name in timm_configs if name.split(".")[0] in models}


def test_each_has_a_variant_and_a_file_of_its_own():
    assert {source.variant for source in CATALOG.values()} == VARIANTS.keys()
    files = [source.filename for source in CATALOG.values() if source.url]
    assert len(files) == len(set(files))
    assert CATALOG["timm:tf_efficientnet_b0.in1k"].filename == "tf_efficientnet_b0.in1k.safetensors"
    assert CATALOG["keras:efficientnetb0_notop"].filename == "efficientnetb0_notop.h5"


@pytest.mark.parametrize(
    "prefix, lineage",
    [
        ("keras:efficientnetb", conventions.KERAS),
        ("keras:efficientnetv2", conventions.KERAS_V2),
        ("timm:tf_", conventions.TIMM_TF),
        ("timm:efficientnet", conventions.TIMM),
        ("pypi:", conventions.LUKEMELAS),
    ],
)
def test_lineages(prefix, convention):
    found = [s for name, s in CATALOG.items() if name.startswith(prefix)]
    assert found
    assert {s.convention for s in found} == {convention}


def test_tags_of_timm_say_what_a_network_was_trained_on():
    words = {"in21k": "21k", "in12k": "12k", "ns_jft": "JFT-300M", "ap": "AdvProp"}
    for name, source in of("timm").items():
        tag = name.split(".")[1]
        for part, word in words.items():
            assert (part in tag.replace("sw_", "")) == (word in source.trained_on), name
        assert ("1k" in source.trained_on.replace("21k", "")) == (source.num_classes == 1000), name


def test_only_files_with_a_head_for_imagenet_have_an_accuracy():
    for name, source in CATALOG.items():
        assert (source.top1 is not None) == (source.num_classes == 1000), name
