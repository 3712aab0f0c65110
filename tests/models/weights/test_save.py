"""Written files load in timm and Keras with our logits, and read back bit for bit."""

import dataclasses
import functools
import json
import os

import jax
import numpy as np
import pytest
from network_files import CASES, shapes_of, write
from reference_torch import import_torchvision
from reference_weights import NUM_CLASSES, random_images
from safetensors.numpy import load_file
from stored_values import stored

from mlcls_jax.models import conventions
from mlcls_jax.models.conventions import Normalization, PretrainedConfig
from mlcls_jax.models.weights.load import Pretrained, load_pretrained
from mlcls_jax.models.weights.provenance import OWN, to_json
from mlcls_jax.models.weights.save import keras_builder, save_keras, save_timm, timm_builder

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The __array__ method of Keras's variables is older than NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
SIZE, TOLERANCE = 64, 1e-4  # of the largest logit


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Reads the file of a stored network, once per module."""

    @functools.cache
    def from_reference(case) -> Pretrained:
        return load_pretrained(write(stored("networks"), case, tmp_path_factory.mktemp("files")))

    return from_reference


def images():
    return random_images(np.random.default_rng(1), (2, SIZE, SIZE, 3))


def normalized(pretrained):
    normalization = pretrained.normalization
    return (images() - np.float32(normalization.mean)) / np.float32(normalization.std)


def our_logits(pretrained):
    return np.asarray(jax.jit(pretrained.model.apply)(pretrained.variables, normalized(pretrained)))


def write_config(path, pretrained):
    """Writes the config.json that the export writes next to the weights."""
    own = {
        "file": path.name,
        "variant": pretrained.variant,
        "pretrained_config": to_json(pretrained.pretrained_config),
    }
    (path.parent / "config.json").write_text(json.dumps({OWN: own}))


def assert_reads_back(path, pretrained):
    write_config(path, pretrained)
    again = load_pretrained(path)
    assert (again.pretrained_config, again.model) == (
        pretrained.pretrained_config,
        pretrained.model,
    )
    assert jax.tree.structure(again.variables) == jax.tree.structure(pretrained.variables)
    for got, saved in zip(
        jax.tree.leaves(again.variables), jax.tree.leaves(pretrained.variables), strict=True
    ):
        np.testing.assert_array_equal(got, saved)


def timm_logits(pretrained, path):
    import_torchvision()
    import timm
    import torch
    from safetensors.torch import load_file as load_torch_file

    builder = timm_builder(pretrained.variant, pretrained.model.convention, NUM_CLASSES)
    model = timm.create_model(builder.name, **builder.arguments).eval()
    model.load_state_dict(load_torch_file(path), strict=True)
    x = torch.from_numpy(normalized(pretrained).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return model(x).numpy()


def assert_close(got, expected):
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


TIMM_CASES = [case for case in CASES if case != "timm tf v2b0"]
TIMM_CASES.remove("timm tf Noisy Student b0")
KERAS_CASES = ["keras b0", "keras v2b0", "timm tf b0", "timm tf v2b0"]
# Whose file has the names and shapes that timm's model of a case loads.
TIMM_NAMES = {"lite0": None, "v2b0": "timm tf v2b0", "b0": "timm b0"}


@pytest.mark.slow
@pytest.mark.parametrize("case", TIMM_CASES)
def test_a_file_for_timm_has_its_names_and_reads_back(tmp_path, read, case):
    pretrained = read(case)
    path = save_timm(tmp_path, pretrained.variables, pretrained.variant)
    assert_reads_back(path, pretrained)
    if names := TIMM_NAMES[pretrained.variant]:
        found = {name: tensor.shape for name, tensor in load_file(path).items()}
        expected = shapes_of(stored("networks"), names)
        assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("case", KERAS_CASES)
def test_a_file_for_keras_reads_back(tmp_path, read, case):
    pretrained = read(case)
    path = save_keras(
        tmp_path, pretrained.variables, pretrained.variant, pretrained.pretrained_config
    )
    assert_reads_back(path, pretrained)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("case", TIMM_CASES)
def test_timm_loads_the_written_file(tmp_path, read, case):
    pretrained = read(case)
    path = save_timm(tmp_path, pretrained.variables, pretrained.variant)
    assert_close(timm_logits(pretrained, path), our_logits(pretrained))


@pytest.mark.reference
@pytest.mark.slow
def test_an_epsilon_other_than_timms_is_an_argument(tmp_path, read):
    """Torchvision's B5 to B7 have such an epsilon."""
    pretrained = read("timm b0")
    model = pretrained.model.clone(convention=conventions.TORCHVISION_LARGE)
    pretrained = dataclasses.replace(pretrained, model=model)
    builder = timm_builder("b0", conventions.TORCHVISION_LARGE, 3)
    assert builder.name == "efficientnet_b0"
    assert builder.arguments == {"num_classes": 3, "bn_eps": 1e-3, "bn_momentum": 0.01}
    path = save_timm(tmp_path, pretrained.variables, "b0")
    assert_reads_back(path, pretrained)
    assert_close(timm_logits(pretrained, path), our_logits(pretrained))


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("case", KERAS_CASES)
def test_keras_loads_the_written_file(tmp_path, read, case):
    assert_keras_loads(read(case), tmp_path)


@pytest.mark.reference
@pytest.mark.slow
def test_a_normalisation_that_keras_cannot_store_is_left_to_the_user(tmp_path, read):
    odd = Normalization((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    pretrained = dataclasses.replace(read("keras v2b0"), normalization=odd)
    builder = assert_keras_loads(pretrained, tmp_path)
    assert builder.arguments["include_preprocessing"] is False


def assert_keras_loads(pretrained, folder):
    import keras

    variant, pretrained_config = pretrained.variant, pretrained.pretrained_config
    path = save_keras(folder, pretrained.variables, variant, pretrained_config)
    assert_reads_back(path, pretrained)
    builder = keras_builder(variant, pretrained_config, NUM_CLASSES, SIZE)
    model = getattr(keras.applications, builder.name)(**builder.arguments)
    model.load_weights(path)
    inside = builder.arguments.get("include_preprocessing", True)
    x = images().astype(np.float32) if inside else normalized(pretrained)
    assert_close(np.asarray(model(x)), our_logits(pretrained))
    return builder


def test_conventions_that_a_code_base_lacks_are_refused():
    with pytest.raises(ValueError, match="timm has no v2b0 with symmetric padding"):
        timm_builder("v2b0", conventions.TIMM, 3)
    with pytest.raises(ValueError, match=r"keras\.applications has no lite0"):
        keras_builder("lite0", PretrainedConfig(conventions.LUKEMELAS, conventions.LITE), 3, 224)
    with pytest.raises(
        ValueError, match=r"has same padding .* need symmetric padding and epsilon 1e-05"
    ):
        keras_builder("b0", PretrainedConfig(conventions.TIMM, conventions.IMAGENET), 3, 224)


@pytest.mark.parametrize(
    ("variant", "convention", "name"),
    [
        ("b5", conventions.KERAS, "tf_efficientnet_b5"),
        ("b5", conventions.TORCHVISION_LARGE, "efficientnet_b5"),
        ("lite3", conventions.LUKEMELAS, "tf_efficientnet_lite3"),
        ("v2s", conventions.KERAS_V2, "tf_efficientnetv2_s"),
        ("v2m", conventions.TORCHVISION_V2, "efficientnetv2_m"),
        ("v2b3", conventions.KERAS_V2, "tf_efficientnetv2_b3"),
    ],
)
def test_names_of_timms_models(variant, convention, name):
    assert timm_builder(variant, convention, 3).name == name
