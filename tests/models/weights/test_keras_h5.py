"""Reads what Keras writes, with the same logits, and refuses hostile HDF5 files."""

import dataclasses
import json
import subprocess
import sys
from functools import partial
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from network_files import KERAS_LAYOUTS, ODD, tensors_of, write_keras
from network_files import images as random_images_of
from reference_keras import randomise_keras, write_earlier_keras_3, write_legacy, write_published
from stored_values import stored

from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights import keras_h5
from mlcls_jax.models.weights.keras_h5 import MAX_DEPTH, MAX_EXPANSION, layer_order, read_keras
from mlcls_jax.models.weights.load import load_pretrained

# The __array__ method of Keras's variables is older than NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

SHAPE = (65, 96, 3)  # odd, even and not square
CASE = "keras b0"  # of the stored networks; see scripts/reference
NUM_CLASSES = 7
TOLERANCE = 1e-4  # of the largest logit
PUBLISHED_STD = np.array([0.229, 0.224, 0.225], np.float32)


@pytest.fixture(scope="module")
def applications():
    from keras.src.applications import efficientnet

    return efficientnet


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (2, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def with_top(applications):
    model = applications.EfficientNetB0(
        weights=None, input_shape=SHAPE, classes=NUM_CLASSES, classifier_activation=None
    )
    randomise_keras(model, np.random.default_rng(0))
    return model


@pytest.fixture(scope="module")
def without_top(applications):
    model = applications.EfficientNetB0(
        weights=None, input_shape=SHAPE, include_top=False, pooling="avg"
    )
    randomise_keras(model, np.random.default_rng(2))
    return model


def write_whole_model(model, path):
    model.save(path)


def write_keras_3(model, path):
    model.save_weights(path)


WRITERS = {
    "published.h5": write_published,
    "legacy.h5": write_legacy,
    "whole_model.h5": write_whole_model,
    "keras_3.weights.h5": write_keras_3,
    "earlier_keras_3.weights.h5": write_earlier_keras_3,
}


@partial(jax.jit, static_argnums=0)
def apply(model, variables, x):
    return model.apply(variables, x, train=False)


def outputs(pretrained, images):
    mean = np.array(pretrained.normalization.mean, np.float32)
    std = np.array(pretrained.normalization.std, np.float32)
    x = (jnp.asarray(images, jnp.float32) - mean) / std
    return np.asarray(apply(pretrained.model, pretrained.variables, x))


def keras_outputs(model, images):
    return model(images.astype(np.float32), training=False).numpy()


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0.1
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.reference
@pytest.mark.parametrize("filename", WRITERS)
def test_logits_are_those_of_keras(tmp_path, with_top, images, filename):
    WRITERS[filename](with_top, tmp_path / filename)
    pretrained = load_pretrained(tmp_path / filename)
    assert (pretrained.variant, pretrained.num_classes) == ("b0", NUM_CLASSES)
    expected = keras_outputs(with_top, images)
    assert_close(outputs(pretrained, images), expected)


@pytest.mark.reference
@pytest.mark.parametrize("filename", WRITERS)
def test_features_are_those_of_keras_without_top(tmp_path, without_top, images, filename):
    WRITERS[filename](without_top, tmp_path / filename)
    pretrained = load_pretrained(tmp_path / filename)
    assert (pretrained.variant, pretrained.num_classes) == ("b0", 0)
    expected = keras_outputs(without_top, images)
    assert_close(outputs(pretrained, images), expected)


@pytest.mark.parametrize("layout", KERAS_LAYOUTS)
def test_every_layout_gives_the_stored_logits(tmp_path, layout):
    path = stored_layout(layout, "with top", tmp_path)
    pretrained = load_pretrained(path)
    assert (pretrained.variant, pretrained.num_classes) == ("b0", NUM_CLASSES)
    found = outputs(pretrained, random_images_of(ODD))
    assert_close(found, stored("networks")[f"{CASE}: logits odd"])


@pytest.mark.parametrize("layout", KERAS_LAYOUTS)
def test_every_layout_without_top_gives_the_stored_features(tmp_path, layout):
    path = stored_layout(layout, "without top", tmp_path)
    pretrained = load_pretrained(path)
    assert (pretrained.variant, pretrained.num_classes) == ("b0", 0)
    found = outputs(pretrained, random_images_of(ODD))
    assert_close(found, stored("networks")[f"{CASE}: features odd"])


def stored_layout(layout, top, folder):
    """Writes a weight file as a version of Keras does, without Keras."""
    text = str(stored("networks")[f"{CASE}: {layout} {top}"])
    return write_keras(json.loads(text), tensors_of(stored("networks"), CASE), folder / layout)


@pytest.mark.slow
def test_every_tensor_shows(tmp_path, images):
    """Shuffling any one tensor changes the output by much more than the tolerance."""
    pretrained = load_pretrained(stored_layout("published.h5", "with top", tmp_path))
    images = images[:1]  # one image is enough
    expected = outputs(pretrained, images)
    leaves: Any = flatten_dict(jax.device_put(pretrained.variables))
    flat: dict[tuple[str, ...], jax.Array] = leaves
    rng = np.random.default_rng(3)
    for path, value in flat.items():
        shuffled = flat | {path: rng.permutation(np.ravel(value)).reshape(value.shape)}
        other = dataclasses.replace(pretrained, variables=unflatten_dict(shuffled))
        moved = np.abs(outputs(other, images) - expected).max() / np.abs(expected).max()
        assert moved > 10 * TOLERANCE, path


@pytest.mark.reference
def test_normalization_of_the_published_files(
    tmp_path, monkeypatch, applications, without_top, images
):
    """Keras itself reads the file as `weights="imagenet"`, with its second rescaling."""
    path = tmp_path / "efficientnetb0_notop.h5"
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    write_published(without_top, path, {"mean": mean, "variance": PUBLISHED_STD})
    monkeypatch.setattr(applications.file_utils, "get_file", lambda *_, **__: str(path))
    keras_model = applications.EfficientNetB0(
        weights="imagenet", input_shape=SHAPE, include_top=False, pooling="avg"
    )
    pretrained = load_pretrained(path)
    np.testing.assert_allclose(pretrained.normalization.std, 255 * PUBLISHED_STD, rtol=1e-6)
    expected = keras_outputs(keras_model, images)
    assert_close(outputs(pretrained, images), expected)


@pytest.mark.reference
def test_optimizer_state_is_omitted(tmp_path, applications):
    model = applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=2)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "compiled.weights.h5")
    with h5py.File(tmp_path / "compiled.weights.h5") as file:
        assert "optimizer/vars/400" in file
    assert load_pretrained(tmp_path / "compiled.weights.h5").num_classes == 2


@pytest.mark.reference
@pytest.mark.parametrize("name", ["B2", "V2B0"])
def test_the_order_of_layers_is_that_of_keras(name):
    import keras

    build = getattr(keras.applications, f"EfficientNet{name}")
    model = build(weights=None, include_top=False, input_shape=(32, 32, 3))
    order = layer_order(VARIANTS[name.lower()])
    classes = {
        "conv2d": "Conv2D",
        "batch_normalization": "BatchNormalization",
        "depthwise_conv2d": "DepthwiseConv2D",
    }
    for kind, kind_name in classes.items():
        layers = [layer.name for layer in model.layers if type(layer).__name__ == kind_name]
        assert order[kind] == layers


@pytest.mark.reference
def test_variant_of_a_file_without_layer_names(tmp_path, applications):
    """B1 and B2 have the same number of layers and differ only in their widths."""
    model = applications.EfficientNetB2(weights=None, include_top=False, input_shape=(32, 32, 3))
    write_earlier_keras_3(model, tmp_path / "b2.weights.h5")
    assert load_pretrained(tmp_path / "b2.weights.h5").variant == "b2"
    with pytest.raises(ValueError, match="holds the weights of b2, not of b1"):
        load_pretrained(tmp_path / "b2.weights.h5", "b1")


@pytest.mark.reference
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
@pytest.mark.parametrize("kind", ["sequential", "functional", "own head"])
def test_an_efficientnet_inside_another_model(tmp_path, without_top, images, kind, suffix):
    import keras

    dense = keras.layers.Dense(5, name="mine")
    if kind == "sequential":
        model = keras.Sequential([without_top, keras.layers.Dropout(0.2), dense])
    elif kind == "functional":
        inputs = keras.Input(SHAPE)
        model = keras.Model(inputs, dense(without_top(inputs)))
    else:
        model = keras.Model(without_top.input, dense(without_top.output))
    path = tmp_path / f"a{suffix}"
    model.save(path) if suffix == ".h5" else model.save_weights(path)
    pretrained = load_pretrained(path)
    assert (pretrained.variant, pretrained.num_classes) == ("b0", 5)
    assert_close(outputs(pretrained, images), keras_outputs(model, images))


def write_h5(path, **tensors):
    with h5py.File(path, "w") as file:
        for name, value in tensors.items():
            file[name.replace("__", "/")] = value
    return path


def test_names(tmp_path):
    path = write_h5(
        tmp_path / "a.h5",
        stem_conv__stem_conv__kernel=np.zeros(1),
        normalization_3__normalization_3__mean=np.zeros(3),
        block1a_dwconv__block1a_dwconv__depthwise_kernel=np.zeros(2),
        other=np.zeros(4),
    )
    assert {name: array.size for name, array in read_keras(path).items()} == {
        "stem_conv/kernel": 1,
        "normalization/mean": 3,
        "block1a_dwconv/kernel": 2,
        "other": 4,
    }


def test_two_tensors_of_the_same_name(tmp_path):
    path = write_h5(
        tmp_path / "a.h5",
        normalization__mean=np.zeros(3),
        normalization_1__mean=np.zeros(3),
    )
    with pytest.raises(ValueError, match=r"a\.h5 .*several tensors named normalization/mean"):
        read_keras(path)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.h5 does not exist; check"):
        read_keras(tmp_path / "none.h5")


@pytest.mark.parametrize("content", [b"", b"not HDF5" * 100])
def test_not_hdf5(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5 is not a usable HDF5 weight file: ."):
        read_keras(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated(tmp_path, part):
    path = write_h5(tmp_path / "a.h5", stem_conv__kernel=np.ones((3, 3, 3, 32)))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"a\.h5 is not a usable HDF5 weight file: .*truncated"):
        read_keras(path)


def test_a_size_that_the_file_does_not_hold(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("stem_conv/kernel", (2**40,), "f4", chunks=(1024,))
    with pytest.raises(ValueError, match=r"a\.h5 .*its tensors declare \d+ bytes"):
        read_keras(path)


def test_many_sizes_that_the_file_does_not_hold(tmp_path):
    """Each is below the limit; together they are a thousand times the size of the file."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for i in range(60):
            file.create_dataset(f"l{i}/kernel", (2**17,), "f4", chunks=(1024,))
    assert MAX_EXPANSION * path.stat().st_size > 4 * 2**17
    with pytest.raises(ValueError, match=r"a\.h5 .*its tensors declare 31457280 bytes"):
        read_keras(path)


def test_reads_no_other_file(tmp_path):
    secret = write_h5(tmp_path / "secret.h5", stem_conv__kernel=np.ones(4))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["top_conv/kernel"] = np.zeros(2)
        file["stem_conv"] = h5py.ExternalLink(str(secret), "stem_conv")
        file["soft"] = h5py.SoftLink("/nowhere")
    assert read_keras(path).keys() == {"top_conv/kernel"}
    with h5py.File(path, "w") as file:
        file.create_dataset("stem_conv/kernel", (4,), "u1", external=[(str(secret), 0, 4)])
    with pytest.raises(ValueError, match=r"a\.h5 .*data of stem_conv/kernel are in another file"):
        read_keras(path)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "stem_conv/kernel", (4,))
        file.create_virtual_dataset("stem_conv/kernel", layout)
    with pytest.raises(ValueError, match=r"a\.h5 .*data of stem_conv/kernel are in another file"):
        read_keras(path)


def test_a_chunk_larger_than_its_dataset(tmp_path):
    """A gigabyte would be decompressed for sixteen values."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("stem_conv/kernel", (16,), "f4", maxshape=(None,), chunks=(2**28,))
    with pytest.raises(ValueError, match=r"a\.h5 .*its tensors declare 1073741824 bytes"):
        read_keras(path)


@pytest.mark.parametrize(
    "value",
    [
        np.array([b"text"]),
        np.zeros(2, [("a", "f4"), ("b", "f4")]),
        h5py.Empty("f4"),
        np.array(["of any length"], h5py.string_dtype()),
    ],
    ids=["text", "records", "nothing", "strings"],
)
def test_datasets_that_are_not_numbers(tmp_path, value):
    path = write_h5(tmp_path / "a.h5", stem_conv__kernel=value)
    with pytest.raises(ValueError, match=r"a\.h5 .*stem_conv/kernel is not an array of numbers"):
        read_keras(path)


def test_groups_that_are_too_deep_or_cyclic(tmp_path):
    path = write_h5(tmp_path / "a.h5", **{"g__" * MAX_DEPTH + "kernel": np.zeros(1)})
    assert len(read_keras(path)) == 1
    path = write_h5(tmp_path / "a.h5", **{"g__" * (MAX_DEPTH + 1) + "kernel": np.zeros(1)})
    with pytest.raises(ValueError, match=r"a\.h5 .*its groups are more than 32 deep"):
        read_keras(path)
    with h5py.File(path, "w") as file:
        file["g/kernel"] = np.zeros(1)
        file["g/g"] = file["g"]
    assert read_keras(path).keys() == {"g/kernel"}


CLAIMS = {
    "a tensor": lambda file: file.create_dataset("w", (2**40,), "f4", chunks=(2**16,)),
    "a tensor of no bytes": lambda file: file.create_dataset("w", (2**40, 2**20), "f8"),
    "a chunk": lambda file: file.create_dataset("w", (1,), "f4", chunks=(2**29,), maxshape=(None,)),
    "a compressed chunk": lambda file: file.create_dataset(
        "w", (2**33,), "u1", chunks=(2**28,), compression="gzip", fillvalue=1
    ),
    "many tensors": lambda file: [
        file.create_dataset(f"{n}/w", (2**30,), "f4", chunks=(2**16,)) for n in range(200)
    ],
}
READ_ALL = """
import sys, time, resource
from mlcls_jax.models.weights.keras_h5 import read_keras

before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for path in sys.argv[1:]:
    try:
        read_keras(path)
    except ValueError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - began)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in kilobytes there")
def test_small_files_that_claim_huge_tensors_cost_little_memory_and_time(tmp_path):
    paths = [tmp_path / f"{name}.h5" for name in CLAIMS]
    for path, make in zip(paths, CLAIMS.values(), strict=True):
        with h5py.File(path, "w") as file:
            make(file)
        assert path.stat().st_size < 500_000
    command = [sys.executable, "-c", READ_ALL, *map(str, paths)]
    *refusals, cost = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=600
    ).stdout.splitlines()
    kilobytes, seconds = map(float, cost.split())
    assert len(refusals) == len(CLAIMS)
    assert all("more than the file can hold" in line for line in refusals)
    assert kilobytes < 100_000
    assert seconds < 5


def test_more_tensors_than_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_h5, "MAX_TENSORS", 3)
    for count, end in [(6, None), (7, "more than 6 tensors and groups")]:
        path = tmp_path / f"{count}.h5"
        with h5py.File(path, "w") as file:
            for n in range(count):
                file[f"w{n}"] = np.ones(2, np.float32)
        if end is None:
            assert len(read_keras(path)) == count
        else:
            with pytest.raises(ValueError, match=end):
                read_keras(path)
