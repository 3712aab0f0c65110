"""Pretrained configs found by config.json, name and layout, and contradictions between them."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.models import conventions
from mlcls_jax.models.conventions import Convention, PretrainedConfig, from_unit
from mlcls_jax.models.weights import provenance
from mlcls_jax.models.weights.catalog import CATALOG
from mlcls_jax.models.weights.layouts import KERAS, LUKEMELAS, TIMM, TORCHVISION
from mlcls_jax.models.weights.provenance import from_json, stored_normalization, to_json

TF, NATIVE = conventions.TIMM_TF, conventions.TIMM


def find_config(path, layout, variant):
    return provenance.find_pretrained_config(path, layout, variant, {})


@pytest.mark.parametrize(
    ("name", "variant", "pretrained_config"),
    [
        ("tf_efficientnet_b0.ns_jft_in1k", "b0", PretrainedConfig(TF, conventions.IMAGENET)),
        ("tf_efficientnet_b0.ap_in1k", "b0", PretrainedConfig(TF, conventions.HALF)),
        ("tf_efficientnet_b4_ap-dedb23e6", "b4", PretrainedConfig(TF, conventions.HALF)),
        ("tf_efficientnet_b0_ns-c0e6a31c", "b0", PretrainedConfig(TF, conventions.IMAGENET)),
        ("tf_efficientnet_b0-0af12548", "b0", PretrainedConfig(TF, conventions.IMAGENET)),
        ("efficientnet_b0_ra4_e3600_r224_in1k", "b0", PretrainedConfig(NATIVE, conventions.HALF)),
        (
            "efficientnet_b0.ra4_e3600_r224_in1k (1)",
            "b0",
            PretrainedConfig(NATIVE, conventions.HALF),
        ),
        ("efficientnet_b0_ra-3dd342df", "b0", PretrainedConfig(NATIVE, conventions.IMAGENET)),
        ("tf_efficientnet_lite3", "lite3", PretrainedConfig(TF, conventions.HALF)),
        ("efficientnet_b0", "b0", PretrainedConfig(NATIVE, conventions.IMAGENET)),
        ("efficientnet_b0.ra4_e3600_r224_in1k", "b0", PretrainedConfig(NATIVE, conventions.HALF)),
        ("efficientnet_b6.mine", "b6", PretrainedConfig(NATIVE, conventions.IMAGENET)),
        ("tf_efficientnetv2_s.in21k_ft_in1k", "v2s", PretrainedConfig(TF, conventions.HALF)),
        ("tf_efficientnetv2_b3.in21k", "v2b3", PretrainedConfig(TF, conventions.HALF)),
        ("tf_efficientnetv2_b3.in1k", "v2b3", PretrainedConfig(TF, conventions.IMAGENET)),
        ("efficientnetv2_m", "v2m", PretrainedConfig(NATIVE, conventions.IMAGENET)),
    ],
)
def test_timm_by_file_name(tmp_path, name, variant, pretrained_config):
    assert find_config(tmp_path / f"{name}.safetensors", TIMM, variant) == pretrained_config


def test_every_timm_file_of_the_catalog_is_recognised_by_its_name(tmp_path):
    entries = [entry for entry in CATALOG.values() if entry.name.startswith("timm:")]
    assert len(entries) > 50
    for entry in entries:
        found = find_config(tmp_path / entry.filename, TIMM, entry.variant)
        assert found == PretrainedConfig(entry.convention, entry.normalization), entry.name


@pytest.mark.parametrize(
    ("layout", "name", "variant", "pretrained_config"),
    [
        (KERAS, "a", "b3", PretrainedConfig(conventions.KERAS, conventions.IMAGENET)),
        (KERAS, "a", "v2b1", PretrainedConfig(conventions.KERAS_V2, conventions.IMAGENET)),
        (KERAS, "a", "v2l", PretrainedConfig(conventions.KERAS_V2, conventions.KERAS_V2_LARGE)),
        (TORCHVISION, "a", "b4", PretrainedConfig(conventions.TORCHVISION, conventions.IMAGENET)),
        (
            TORCHVISION,
            "a",
            "b5",
            PretrainedConfig(conventions.TORCHVISION_LARGE, conventions.IMAGENET),
        ),
        (TORCHVISION, "a", "v2l", PretrainedConfig(conventions.TORCHVISION_V2, conventions.HALF)),
        (LUKEMELAS, "a", "b7", PretrainedConfig(conventions.LUKEMELAS, conventions.IMAGENET)),
        (
            LUKEMELAS,
            "adv-efficientnet-b0",
            "b0",
            PretrainedConfig(conventions.LUKEMELAS, conventions.HALF),
        ),
        (LUKEMELAS, "a", "lite2", PretrainedConfig(conventions.LUKEMELAS, conventions.LITE)),
    ],
)
def test_other_code_bases_by_layout(tmp_path, layout, name, variant, pretrained_config):
    assert find_config(tmp_path / f"{name}.pth", layout, variant) == pretrained_config


def write(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


def test_timms_config(tmp_path):
    path = write(
        tmp_path,
        architecture="efficientnet_b5",
        pretrained_cfg={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        model_args={"bn_eps": 1e-3, "bn_momentum": 0.01, "in_chans": 3, "global_pool": "avg"},
    )
    pretrained_config = find_config(path, TIMM, "b5")
    assert pretrained_config.normalization == from_unit((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert pretrained_config.convention == Convention("symmetric", 1e-3, 0.99, unbiased=True)
    older = write(tmp_path, architecture="tf_efficientnet_b0_ap", mean=[0.5] * 3, std=[0.5] * 3)
    assert find_config(older, TIMM, "b0") == PretrainedConfig(TF, conventions.HALF)
    older = write(tmp_path, architecture="tf_efficientnet_b0_ap")
    assert find_config(older, TIMM, "b0") == PretrainedConfig(TF, conventions.HALF)
    named = write(tmp_path, architecture="tf_efficientnet_b0").with_stem(
        "tf_efficientnet_b0.ap_in1k"
    )
    assert find_config(named, TIMM, "b0") == PretrainedConfig(TF, conventions.HALF)
    path = write(tmp_path, architecture="tf_efficientnet_lite0")
    assert find_config(path, TIMM, "lite0") == PretrainedConfig(TF, conventions.HALF)


def test_our_own_config_is_exact_and_applies_only_to_its_file(tmp_path):
    odd = PretrainedConfig(
        Convention("symmetric", 0.01, 0.7), conventions.Normalization((1, 2, 3), (0.1, 5, 6))
    )
    assert from_json(json.loads(json.dumps(to_json(odd)))) == odd
    own = {"file": "model.safetensors", "variant": "b0", "pretrained_config": to_json(odd)}
    path = write(tmp_path, mlcls_jax=own)
    assert find_config(path, TIMM, "b0") == odd
    assert find_config(path, KERAS, "b0") == odd
    other = find_config(tmp_path / "other.h5", KERAS, "b0")
    assert other == PretrainedConfig(conventions.KERAS, conventions.IMAGENET)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("weights", None, r"weights\.safetensors holds b0, but nothing shows which of timm's"),
        ("tf_efficientnet_b1", None, r"holds the weights of b0, but its name states b1; correct"),
        ("tf_efficientnet_b0", {"architecture": "efficientnet_b1"}, r"but config\.json states b1"),
        (
            "tf_efficientnet_b0.in1k",
            {"architecture": "efficientnet_b0"},
            r"named as tf_efficientnet_b0, but the config\.json next to it states efficientnet_b0",
        ),
        ("tf_efficientnet_b0.mine", None, "is published for several normalisations of images"),
        (
            "tf_efficientnet_b0.ap_in1k",
            {
                "architecture": "tf_efficientnet_b0",
                "pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            },
            r"name stands for mean / std 127\.5 / 127\.5, but the config\.json .*states 123\.7",
        ),
        (
            "a",
            {"architecture": "efficientnet_b0", "mean": [0.5] * 3, "std": [0, 0.5, 0.5]},
            r"config\.json: its mean and std are not in timm's format .*std must be positive",
        ),
        (
            "a",
            {"architecture": "efficientnet_b0", "model_args": {"act_layer": "relu"}},
            r"its model_args are not supported \(act_layer would change the network",
        ),
        (
            "a",
            {"architecture": "efficientnet_b0", "model_args": {"bn_eps": float("nan")}},
            r"its model_args are not supported \(a batch .* cannot have an epsilon of nan",
        ),
        (
            "a",
            {"architecture": "efficientnet_b0", "model_args": {"bn_eps": 10**400}},
            r"its model_args are not supported \(int too large",
        ),
        (
            "a",
            {"architecture": "efficientnet_b0", "model_args": {"a\nb": 1}},
            r"its model_args are not supported \(a b would change the network",
        ),
        (
            "a",
            {"architecture": "efficientnet_b0", "mean": [10**400] * 3, "std": [1] * 3},
            r"config\.json: its mean and std are not in timm's format \(int too large",
        ),
        ("a", "[" * 100_000, r"config\.json, which describes a\.safetensors, cannot be read"),
        ("weights", {"architecture": "resnet50"}, r"nothing shows which of timm's"),
        ("a", "{", r"config\.json, which describes a\.safetensors, cannot be read"),
        ("a", "[]", r"config\.json, which describes a\.safetensors, is not a JSON object"),
        (
            "a",
            {"architecture": "efficientnet_b0", "pretrained_cfg": {"mean": 3, "std": 4}},
            r"config\.json: its mean and std are not in timm's format",
        ),
        (
            "a",
            {"mlcls_jax": {"file": "a.safetensors", "variant": "b0"}},
            "missing value.*convention",
        ),
        (
            "a",
            {
                "mlcls_jax": {
                    "file": "a.safetensors",
                    "variant": "b0",
                    "pretrained_config": {"convention": 3},
                }
            },
            r"config\.json: the pretrained config of the weights is invalid",
        ),
        (
            "a",
            {"mlcls_jax": {"file": "a.safetensors", "variant": "b0", "pretrained_config": [3]}},
            r"config\.json: the pretrained config of the weights is invalid",
        ),
        (
            "a",
            {"mlcls_jax": {"file": "a.safetensors", "variant": "b7", "pretrained_config": {}}},
            r"config\.json states b7",
        ),
    ],
)
def test_contradictions_and_gaps(tmp_path, name, config, message):
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_config(tmp_path / f"{name}.safetensors", TIMM, "b0")


def test_models_that_a_code_base_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="timm has no model efficientnetv2_b0"):
        find_config(tmp_path / "efficientnetv2_b0.safetensors", TIMM, "v2b0")
    with pytest.raises(ValueError, match="torchvision has no such model"):
        find_config(tmp_path / "a.pth", TORCHVISION, "lite0")


@pytest.mark.parametrize(
    ("mean", "variance", "expected_mean", "expected_std"),
    [
        (
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            (123.675, 116.28, 103.53),
            (58.395, 57.12, 57.375),
        ),
        ((0.5, 0.4, 0.2), (0.25, 0.04, 0.01), (127.5, 102, 51), (127.5, 51, 25.5)),
        ((0, 0, 0), (1, 1, 1), (0, 0, 0), (255, 255, 255)),
    ],
    ids=["published", "adapted", "untouched"],
)
def test_the_normalisation_that_keras_stores(mean, variance, expected_mean, expected_std):
    arrays = np.array(mean, np.float32), np.array(variance, np.float32)
    normalization = stored_normalization(*arrays, Path("a.h5"))
    assert normalization.mean == pytest.approx(expected_mean)
    assert normalization.std == pytest.approx(expected_std)


@pytest.mark.parametrize("variance", [(1, 0, 1), (1, -1, 1), (1, np.nan, 1), (1, 1)])
def test_a_stored_normalisation_must_be_usable(variance):
    with pytest.raises(ValueError, match=r"a\.h5: the weights of its normalization layer .*again"):
        stored_normalization(np.zeros(3), np.array(variance, np.float32), Path("a.h5"))


def test_our_config_has_precedence_over_rounded_weights_in_the_file(tmp_path):
    own = {
        "file": "a.h5",
        "variant": "b0",
        "pretrained_config": to_json(PretrainedConfig(conventions.KERAS, conventions.HALF)),
    }
    write(tmp_path, mlcls_jax=own)
    stored = {"normalization/mean": np.ones(3), "normalization/variance": np.ones(3)}
    found = provenance.find_pretrained_config(tmp_path / "a.h5", KERAS, "b0", stored)
    assert found == PretrainedConfig(conventions.KERAS, conventions.HALF)
    other = provenance.find_pretrained_config(tmp_path / "b.h5", KERAS, "b0", stored)
    assert other.normalization.std == (255, 255, 255)
