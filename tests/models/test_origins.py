"""Where weights come from: by config.json, by name, by layout; and what contradicts."""

import json

import pytest

from mlcls_jax.models import lineages
from mlcls_jax.models.layouts import KERAS, LUKEMELAS, TIMM, TORCHVISION
from mlcls_jax.models.lineages import Lineage, Origin, from_unit
from mlcls_jax.models.origins import find_origin, from_json, to_json
from mlcls_jax.models.sources import SOURCES

TF, NATIVE = lineages.TIMM_TF, lineages.TIMM


@pytest.mark.parametrize(
    ("name", "variant", "origin"),
    [
        ("tf_efficientnet_b0.ns_jft_in1k", "b0", Origin(TF, lineages.IMAGENET)),
        ("tf_efficientnet_b0.ap_in1k", "b0", Origin(TF, lineages.HALF)),
        ("tf_efficientnet_b4_ap-dedb23e6", "b4", Origin(TF, lineages.HALF)),
        ("tf_efficientnet_b0_ns-c0e6a31c", "b0", Origin(TF, lineages.IMAGENET)),
        ("tf_efficientnet_lite3", "lite3", Origin(TF, lineages.HALF)),
        ("efficientnet_b0", "b0", Origin(NATIVE, lineages.IMAGENET)),
        ("efficientnet_b0.ra4_e3600_r224_in1k", "b0", Origin(NATIVE, lineages.HALF)),
        ("efficientnet_b6.mine", "b6", Origin(NATIVE, lineages.IMAGENET)),
        ("tf_efficientnetv2_s.in21k_ft_in1k", "v2s", Origin(TF, lineages.HALF)),
        ("tf_efficientnetv2_b3.in21k", "v2b3", Origin(TF, lineages.HALF)),
        ("tf_efficientnetv2_b3.in1k", "v2b3", Origin(TF, lineages.IMAGENET)),
        ("efficientnetv2_m", "v2m", Origin(NATIVE, lineages.IMAGENET)),
    ],
)
def test_timm_by_the_files_name(tmp_path, name, variant, origin):
    assert find_origin(tmp_path / f"{name}.safetensors", TIMM, variant) == origin


def test_every_timm_file_of_the_table_is_known_by_its_name(tmp_path):
    rows = [row for row in SOURCES.values() if row.name.startswith("timm:")]
    assert len(rows) > 50
    for row in rows:
        found = find_origin(tmp_path / row.filename, TIMM, row.variant)
        assert found == Origin(row.lineage, row.normalization), row.name


@pytest.mark.parametrize(
    ("layout", "name", "variant", "origin"),
    [
        (KERAS, "a", "b3", Origin(lineages.KERAS, lineages.IMAGENET)),
        (KERAS, "a", "v2b1", Origin(lineages.KERAS_V2, lineages.IMAGENET)),
        (KERAS, "a", "v2l", Origin(lineages.KERAS_V2, lineages.KERAS_V2_LARGE)),
        (TORCHVISION, "a", "b4", Origin(lineages.TORCHVISION, lineages.IMAGENET)),
        (TORCHVISION, "a", "b5", Origin(lineages.TORCHVISION_LARGE, lineages.IMAGENET)),
        (TORCHVISION, "a", "v2l", Origin(lineages.TORCHVISION_V2, lineages.HALF)),
        (LUKEMELAS, "a", "b7", Origin(lineages.LUKEMELAS, lineages.IMAGENET)),
        (LUKEMELAS, "adv-efficientnet-b0", "b0", Origin(lineages.LUKEMELAS, lineages.HALF)),
        (LUKEMELAS, "a", "lite2", Origin(lineages.LUKEMELAS, lineages.LITE)),
    ],
)
def test_the_others_by_their_layout(tmp_path, layout, name, variant, origin):
    assert find_origin(tmp_path / f"{name}.pth", layout, variant) == origin


def write(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


def test_timms_config(tmp_path):
    path = write(
        tmp_path,
        architecture="efficientnet_b5",
        pretrained_cfg={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        model_args={"bn_eps": 1e-3, "bn_momentum": 0.01},
    )
    origin = find_origin(path, TIMM, "b5")
    assert origin.normalization == from_unit((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert origin.lineage == Lineage("symmetric", 1e-3, 0.99, unbiased=True)
    path = write(tmp_path, architecture="tf_efficientnet_lite0")
    assert find_origin(path, TIMM, "lite0") == Origin(TF, lineages.HALF)


def test_our_own_config_is_exact_and_is_about_its_own_file(tmp_path):
    odd = Origin(Lineage("symmetric", 0.01, 0.7), lineages.Normalization((1, 2, 3), (0.1, 5, 6)))
    assert from_json(json.loads(json.dumps(to_json(odd)))) == odd
    own = {"file": "model.safetensors", "variant": "b0", "origin": to_json(odd)}
    path = write(tmp_path, mlcls_jax=own)
    assert find_origin(path, TIMM, "b0") == odd
    assert find_origin(path, KERAS, "b0") == odd
    other = find_origin(tmp_path / "other.h5", KERAS, "b0")
    assert other == Origin(lineages.KERAS, lineages.IMAGENET)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("weights", None, r"weights\.safetensors holds b0, but nothing says which of timm's"),
        ("tf_efficientnet_b1", None, r"holds the weights of b0, but its name says b1; mend"),
        ("tf_efficientnet_b0", {"architecture": "efficientnet_b1"}, r"but config\.json says b1"),
        (
            "tf_efficientnet_b0.in1k",
            {"architecture": "efficientnet_b0"},
            r"is named as tf_efficientnet_b0, but config\.json beside it says efficientnet_b0",
        ),
        ("weights", {"architecture": "resnet50"}, r"nothing says which of timm's"),
        ("a", "{", r"config\.json, which describes a\.safetensors, cannot be read"),
        ("a", "[]", r"config\.json, which describes a\.safetensors, holds no JSON object"),
        (
            "a",
            {"architecture": "efficientnet_b0", "pretrained_cfg": {"mean": 3, "std": 4}},
            r"config\.json: its mean, std or model_args are not as timm writes them",
        ),
        ("a", {"mlcls_jax": {"file": "a.safetensors", "variant": "b0"}}, "missing value.*lineage"),
        (
            "a",
            {"mlcls_jax": {"file": "a.safetensors", "variant": "b0", "origin": {"lineage": 3}}},
            r"config\.json: the origin of the weights is not as it was written",
        ),
        (
            "a",
            {"mlcls_jax": {"file": "a.safetensors", "variant": "b0", "origin": [3]}},
            r"config\.json: the origin of the weights is not as it was written",
        ),
        (
            "a",
            {"mlcls_jax": {"file": "a.safetensors", "variant": "b7", "origin": {}}},
            r"config\.json says b7",
        ),
    ],
)
def test_contradictions_and_gaps(tmp_path, name, config, message):
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_origin(tmp_path / f"{name}.safetensors", TIMM, "b0")


def test_models_that_a_code_base_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="timm has no model efficientnetv2_b0"):
        find_origin(tmp_path / "efficientnetv2_b0.safetensors", TIMM, "v2b0")
    with pytest.raises(ValueError, match="torchvision has no such model"):
        find_origin(tmp_path / "a.pth", TORCHVISION, "lite0")
