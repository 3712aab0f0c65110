"""Loads files of every layout into models, merges them, and lists the differences."""

import functools
import json
import pickle
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import save_file

from mlcls_jax.models import conventions
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.convert import (
    find_layout,
    infer_variant,
    to_tensors,
    to_variables,
    variable_shapes,
)
from mlcls_jax.models.weights.download import packaged_weights
from mlcls_jax.models.weights.layouts import KERAS, LAYOUTS, LUKEMELAS
from mlcls_jax.models.weights.load import load_pretrained, merge

REFERENCE = Path(__file__).parent / "lite_reference.npz"
TOLERANCE = 1e-4  # of the largest logit

shapes_of = functools.cache(variable_shapes)


def file_tensors(model, layout, rng=None):
    """Returns the tensors of a model's file: random, or broadcast zeros that take no memory."""
    tensors = {}
    for path, shape in shapes_of(model).items():
        axes = layout.axes(path) or tuple(range(len(shape)))
        shape = tuple(shape[axes.index(i)] for i in range(len(shape)))
        name = layout.name(path, VARIANTS[model.variant])
        values = np.float32(0) if rng is None else rng.normal(size=shape).astype(np.float32)
        assert name not in tensors
        values = np.abs(values) if path[-1] == "var" else values
        tensors[name] = np.broadcast_to(values, shape)
    return tensors


def write_keras(path, tensors):
    with h5py.File(path, "w") as file:
        for name, value in tensors.items():
            layer, weight = name.split("/")
            file[f"{layer}/{layer}/{weight}:0"] = value
    return path


@pytest.fixture(scope="module")
def b0_tensors():
    model = EfficientNet(variant="b0", num_classes=3)
    return file_tensors(model, KERAS, np.random.default_rng(0))


def foolbox_images(filenames, size):
    spec = find_spec("foolbox")
    assert spec is not None and spec.submodule_search_locations, "pip install foolbox==3.3.4"
    folder = Path(spec.submodule_search_locations[0]) / "data"
    images = [Image.open(folder / name).convert("RGB") for name in filenames]
    squashed = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in squashed])


@pytest.mark.parametrize(
    ("variant", "right"),
    [
        ("lite0", 17),
        pytest.param("lite1", 19, marks=pytest.mark.slow),
        pytest.param("lite2", 18, marks=pytest.mark.slow),
    ],
)
def test_lite_logits_are_those_of_the_reference(variant, right):
    """Real weights, real photographs; see scripts/weights/make_lite_reference.py."""
    with np.load(REFERENCE) as reference:
        filenames, labels, expected = (reference[k] for k in ("filenames", "labels", variant))
    pretrained = load_pretrained("imagenet", variant)
    assert (pretrained.variant, pretrained.num_classes) == (variant, 1000)
    assert pretrained.pretrained_config == conventions.PretrainedConfig(
        conventions.LUKEMELAS, conventions.LITE
    )
    images = foolbox_images(filenames, VARIANTS[variant].image_size)
    mean = np.array(pretrained.normalization.mean, np.float32)
    std = np.array(pretrained.normalization.std, np.float32)
    x = (jnp.asarray(images, jnp.float32) - mean) / std
    logits = np.asarray(jax.jit(pretrained.model.apply)(pretrained.variables, x))
    assert logits.shape == (20, 1000)
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    assert (logits.argmax(axis=1) == labels).sum() == right


@pytest.mark.reference
@pytest.mark.parametrize("variant", ["lite0", "lite1", "lite2"])
def test_stored_lite_logits_are_those_of_the_reference(variant):
    from make_lite_reference import package_files, reference_logits

    paths = package_files("foolbox", "data/imagenet_*_*.jpg")
    with np.load(REFERENCE) as stored:
        filenames, expected = stored["filenames"], stored[variant]
    assert [path.name for path in paths] == filenames.tolist()
    logits = reference_logits(variant, paths, crop=False)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_a_name_for_each_variable_and_is_recognised(variant, layout):
    tensors = file_tensors(EfficientNet(variant=variant, num_classes=5), layout)
    assert find_layout(tensors) is layout
    assert infer_variant(tensors, layout) == variant


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
@pytest.mark.parametrize("variant", ["b0", "lite0", "v2b0"])
def test_variables_are_those_of_the_model_and_go_back_unchanged(variant, layout):
    model = EfficientNet(variant=variant, num_classes=5)
    tensors = file_tensors(model, layout, np.random.default_rng(0))
    left = dict(tensors)
    variables, differences = to_variables(left, shapes_of(model), variant, layout)
    assert (differences, left) == ([], {})  # no tensor is in memory twice
    leaves = flat(variables)
    assert {path: leaf.shape for path, leaf in leaves.items()} == shapes_of(model)
    assert all(leaf.dtype == np.float32 and leaf.flags.c_contiguous for leaf in leaves.values())
    back = to_tensors(variables, variant, layout)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_axes():
    model = EfficientNet(variant="lite0", num_classes=5)
    tensors = file_tensors(model, LUKEMELAS, np.random.default_rng(0))
    params = to_variables(dict(tensors), shapes_of(model), "lite0", LUKEMELAS)[0]["params"]
    stem, depthwise = tensors["_conv_stem.weight"], tensors["_blocks.0._depthwise_conv.weight"]
    block = params["backbone"]["stage1"]["block1"]
    assert params["backbone"]["stem"]["conv"]["kernel"][2, 1, 0, 7] == stem[7, 0, 2, 1]
    assert block["depthwise"]["conv"]["kernel"][2, 1, 0, 7] == depthwise[7, 0, 2, 1]
    assert params["head"]["kernel"][11, 3] == tensors["_fc.weight"][3, 11]


def test_lists_every_difference_at_once(tmp_path, b0_tensors):
    tensors = dict(b0_tensors)
    del tensors["block2a_se_reduce/bias"], tensors["top_bn/gamma"]
    tensors["stem_conv/kernel"] = np.zeros((3, 3, 3, 40), np.float32)
    tensors["block1a_dwconv/kernel"] = tensors["block1a_dwconv/kernel"].swapaxes(2, 3)
    tensors["stem_bn/beta"] = np.zeros(32, np.int32)
    tensors["block9z_conv/kernel"] = np.zeros((1, 2), np.float32)
    tensors["normalization/mean"] = np.zeros(3, np.float32)
    tensors["normalization/count"] = np.zeros((), np.int64)
    path = write_keras(tmp_path / "a.h5", tensors)
    with pytest.raises(ValueError, match=r"a\.h5 does not fit EfficientNet-b0") as caught:
        load_pretrained(path)
    assert set(str(caught.value).split(": ", 1)[1].split("; ")) == {
        "block1a_dwconv/kernel is [3, 3, 1, 32], expected [3, 3, 32, 1]",
        "missing block2a_se_reduce/bias [4]",
        "stem_bn/beta is int32, expected floats",
        "stem_conv/kernel is [3, 3, 3, 40], expected [3, 3, 3, 32]",
        "missing top_bn/gamma [1280]",
        "missing normalization/variance [3]",
        "unexpected block9z_conv/kernel [1, 2]",
    }


def test_lists_the_differences_of_a_torch_file(tmp_path):
    model = EfficientNet(variant="lite0", num_classes=4)
    tensors = file_tensors(model, LUKEMELAS, np.random.default_rng(0))
    tensors["_bn0.num_batches_tracked"] = np.array(3)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    assert load_pretrained(path).num_classes == 4
    del tensors["_bn1.running_var"]
    tensors["extra.weight"] = np.zeros(2, np.float32)
    tensors["_fc.bias"] = np.zeros(5, np.float32)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"a\.safetensors does not fit .*-lite0") as caught:
        load_pretrained(path)
    assert set(str(caught.value).split(": ", 1)[1].split("; ")) == {
        "missing _bn1.running_var [1280]",
        "unexpected extra.weight [2]",
        "_fc.bias is [5], expected [4]",
    }


def test_negative_variances_and_values_that_are_not_finite(tmp_path, b0_tensors):
    tensors = dict(b0_tensors)
    tensors["stem_bn/moving_variance"] = np.full(32, -1, np.float32)
    tensors["top_conv/kernel"] = np.full((1, 1, 320, 1280), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"stem_bn/moving_variance has values that .*; top_conv"):
        load_pretrained(write_keras(tmp_path / "a.h5", tensors))


def test_a_folder_stands_for_its_one_weight_file(tmp_path, b0_tensors):
    (tmp_path / "config.json").write_text("{}")
    write_keras(tmp_path / "a.h5", b0_tensors)
    assert load_pretrained(tmp_path).variant == "b0"
    write_keras(tmp_path / "b.h5", b0_tensors)
    with pytest.raises(ValueError, match=r"folder with 2 weight files \(a\.h5, b\.h5\); give"):
        load_pretrained(tmp_path)


def assert_is_the_stem(path, written):
    stem = load_pretrained(path).variables["params"]["backbone"]["stem"]["conv"]["kernel"]
    expected = written["_conv_stem.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(stem, expected)


@pytest.fixture
def bfloat16_tensors():
    model = EfficientNet(variant="lite0", num_classes=2)
    tensors = file_tensors(model, LUKEMELAS, np.random.default_rng(0))
    return {name: np.abs(value).astype(ml_dtypes.bfloat16) for name, value in tensors.items()}


def test_bfloat16_is_read_exactly(tmp_path, bfloat16_tensors):
    """The file is written by hand, because safetensors writes bfloat16 from torch only."""
    header, data = {}, b""
    for name, value in bfloat16_tensors.items():
        span = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": span}
        data += value.tobytes()
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert_is_the_stem(path, bfloat16_tensors)


@pytest.mark.reference
def test_bfloat16_of_torch_is_read_exactly(tmp_path, bfloat16_tensors):
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {
        name: torch.from_numpy(value.astype(np.float32)).bfloat16()
        for name, value in bfloat16_tensors.items()
    }
    save_torch(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pth")
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pth"):
        assert_is_the_stem(path, bfloat16_tensors)


def test_half_a_head_is_a_difference(tmp_path, b0_tensors):
    tensors = {k: v for k, v in b0_tensors.items() if k != "predictions/kernel"}
    with pytest.raises(ValueError, match=r"unexpected predictions/bias \[3\]"):
        load_pretrained(write_keras(tmp_path / "a.h5", tensors))


@pytest.mark.parametrize(
    ("source", "variant", "message"),
    [
        ("imagenet", None, "specify the variant"),
        ("imagenet", "b8", "unknown variant 'b8'"),
        ("weights.onnx", None, r"weights\.onnx cannot be read"),
        ("none.h5", None, r"none\.h5 cannot be read"),
        ("none.pth", "lite0", r"none\.pth cannot be read"),
    ],
)
def test_unusable_sources(source, variant, message):
    with pytest.raises(ValueError, match=message):
        load_pretrained(source, variant)


def test_a_variant_that_contradicts_the_file(tmp_path, b0_tensors):
    path = write_keras(tmp_path / "a.h5", b0_tensors)
    assert load_pretrained(path, "b0").normalization == load_pretrained(str(path)).normalization
    with pytest.raises(ValueError, match=r"a\.h5 holds the weights of b0, not of b1"):
        load_pretrained(path, "b1")
    with pytest.raises(ValueError, match=r"a\.h5 holds the weights of b0, not of lite0"):
        load_pretrained(path, "lite0")
    with pytest.raises(ValueError, match="holds the weights of lite0, not of lite2"):
        load_pretrained(packaged_weights("lite0"), "lite2")


def test_a_file_of_no_variant(tmp_path, b0_tensors):
    tensors = {k: v for k, v in b0_tensors.items() if "block7a_project_conv" not in k}
    path = write_keras(tmp_path / "a.h5", tensors)
    with pytest.raises(ValueError, match="does not have the blocks of any of b0, b1"):
        load_pretrained(path)
    with pytest.raises(
        ValueError, match=r"missing block7a_project_conv/kernel \[1, 1, 1152, 320\]"
    ):
        load_pretrained(path, "b0")


def test_a_hostile_file_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (eval, (f"open({str(tmp_path / 'marker')!r}, 'w')",))

    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"a\.pth .*global builtins\.eval"):
        load_pretrained(path)
    assert not (tmp_path / "marker").exists()


def variables(head=(4, 2), width=3, fill=0.0):
    """Returns the variables of a tiny model, because merge only compares names and shapes."""
    tree = {
        "params": {"backbone": {"stem": {"kernel": np.full((2, width), fill, np.float32)}}},
        "batch_stats": {"backbone": {"stem": {"mean": np.full(width, fill, np.float32)}}},
    }
    if head:
        bias = np.full(head[1], fill, np.float32)
        tree["params"]["head"] = {"kernel": np.full(head, fill, np.float32), "bias": bias}
    return tree


def flat(tree) -> dict[tuple[str, ...], np.ndarray]:
    leaves: Any = flatten_dict(tree)
    return leaves


HEAD = ["head/bias", "head/kernel"]


@pytest.mark.parametrize(
    ("pretrained_head", "target_head", "kept_paths"),
    [((4, 2), (4, 2), []), ((4, 7), (4, 2), HEAD), (None, (4, 2), HEAD), ((4, 7), None, HEAD)],
    ids=["same", "other", "file without", "model without"],
)
def test_merge(pretrained_head, target_head, kept_paths):
    target = variables(target_head, fill=0.0)
    merged, listed = merge(variables(pretrained_head, fill=1.0), target)
    assert listed == kept_paths
    assert jax.tree.structure(merged) == jax.tree.structure(target)
    fresh_shapes = {path: leaf.shape for path, leaf in flat(target).items()}
    for path, leaf in flat(merged).items():
        fresh = path[1] == "head" and kept_paths
        np.testing.assert_array_equal(leaf, np.full(fresh_shapes[path], 0.0 if fresh else 1.0))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(target))


def test_merge_keeps_the_dtypes_of_the_target():
    target = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), variables())
    merged, _ = merge(variables(fill=1.0), target)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}


def test_merge_lists_every_difference_at_once():
    source, target = variables(fill=1.0), variables(head=(4, 9), width=5)
    source["params"]["backbone"]["old"] = np.zeros(6, np.float32)
    target["batch_stats"]["backbone"]["new"] = np.zeros(7, np.float32)
    with pytest.raises(ValueError) as caught:
        merge(source, target)
    assert str(caught.value).split(": ", 1)[1].split("; ") == [
        "missing batch_stats/backbone/new [7]",
        "batch_stats/backbone/stem/mean is [3], expected [5]",
        "unexpected params/backbone/old [6]",
        "params/backbone/stem/kernel is [2, 3], expected [2, 5]",
    ]


def test_merge_of_a_real_model():
    source = load_pretrained("imagenet", "lite0")
    model = EfficientNet(variant="lite0", num_classes=80)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    target = jax.eval_shape(model.init, jax.random.key(0), image)
    merged, listed = merge(source.variables, target)
    assert listed == HEAD
    np.testing.assert_array_equal(
        merged["params"]["backbone"]["top"]["conv"]["kernel"],
        source.variables["params"]["backbone"]["top"]["conv"]["kernel"],
    )
    assert merged["params"]["head"]["kernel"].shape == (1280, 80)
