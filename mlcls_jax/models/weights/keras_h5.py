"""Reads the weights of a Keras EfficientNet from HDF5, without Keras or TensorFlow.

There are three layouts:
- published (keras.applications, `save_weights("x.h5")`): `LAYER/LAYER/WEIGHT:0`; Keras 3 omits
  `:0`, and a whole model (`model.save("x.h5")`) has the layers below `model_weights`;
- Keras 3 (`save_weights("x.weights.h5")`): `layers/CLASS_N/vars/I`, where N counts the layers of a
  class and the attribute `name` of `vars` is the layer's name;
- earlier Keras 3: the same without that attribute; a layer is identified by its position in the
  model.

An EfficientNet may be a layer of another model.  Then its own layers are one group deeper, and the
only dense layer is taken as the head.
"""

import math
import re
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

from mlcls_jax.models.variants import VARIANTS, Variant, scaled_stages
from mlcls_jax.models.weights.layouts import block_parts, keras_name

KERAS_3_ROOTS = ("layers", "_layer_checkpoint_dependencies")
NOT_WEIGHTS = ("optimizer", "optimizer_weights", "metrics")
MAX_EXPANSION = 16  # float weights never compress further; a larger declared size is not real
MAX_DEPTH = 32  # of nested groups; those of Keras are ten deep at most
MAX_TENSORS = 20_000  # of a file; far more than an EfficientNet and its optimiser have


def read_keras(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the weights of a Keras EfficientNet, with or without top.

    Args:
        path: an HDF5 file in one of the layouts above.

    Returns:
        Arrays by "LAYER/WEIGHT", in Keras's own axis order, such as "stem_conv/kernel",
        "block1a_dwconv/kernel" ([k, k, channel, 1]), "stem_bn/moving_mean",
        "normalization/variance", "predictions/bias".  A tensor that belongs to no layer of an
        EfficientNet is named by its path in the file.  Optimizer state is omitted.

    Raises:
        ValueError: the file does not exist, is not HDF5, is truncated, declares a size that it
            cannot hold, refers to another file, has data that are not numbers, or has two tensors
            of the same name.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            datasets = _datasets(file, path.stat().st_size)
            names = _names(datasets)
            repeated = [name for name, count in Counter(names.values()).items() if count > 1]
            if repeated:
                raise ValueError(f"it has several tensors named {', '.join(sorted(repeated))}")
            return {names[key]: dataset[()] for key, dataset in datasets.items()}
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; check the path of the weight file") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is not a usable HDF5 weight file: {reason}; download or copy the file again"
        ) from error


def layer_order(variant: Variant) -> dict[str, list[str]]:
    """Returns the names of the layers with weights by Keras class, in the order of the model."""
    order: dict[str, list[str]] = {"conv2d": [], "batch_normalization": [], "depthwise_conv2d": []}

    def add(*modules: str) -> None:
        norm, depthwise = modules[-1] == "norm", modules[-2] == "depthwise"
        kind = "depthwise_conv2d" if depthwise else "conv2d"
        weight = "scale" if norm else "kernel"
        name = keras_name(("params", "backbone", *modules, weight), variant)
        order["batch_normalization" if norm else kind].append(name.split("/")[0])

    add("stem", "conv")
    add("stem", "norm")
    for number, stage in enumerate(scaled_stages(variant), start=1):
        for i in range(stage.blocks):
            for part in block_parts(stage):
                for kind in ("reduce", "expand") if part == "se" else ("conv", "norm"):
                    add(f"stage{number}", f"block{i + 1}", part, kind)
    add("top", "conv")
    add("top", "norm")
    return order | {"normalization": ["normalization"], "dense": ["predictions"]}


def _datasets(file: h5py.File, file_size: int) -> dict[str, h5py.Dataset]:
    """Returns all datasets by path, after the checks that make it safe to read them."""
    found: dict[str, h5py.Dataset] = {}
    seen: set[object] = set()
    for name in sorted(file.keys() - set(NOT_WEIGHTS)):
        _walk(file, name, name, found, seen)
    declared = 0
    for name, dataset in found.items():
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"the data of {name} are in another file")
        # Text and rows of variable length are stored elsewhere in the file, where many of them may
        # share the same bytes, so their size cannot be checked.
        if dataset.shape is None or dataset.dtype.kind not in "biuf":
            raise ValueError(f"{name} is not an array of numbers")
        # A chunk is decompressed as a whole, even for a smaller dataset.
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        declared += max(dataset.nbytes, chunk)
    if declared > MAX_EXPANSION * file_size:
        raise ValueError(f"its tensors declare {declared} bytes, more than the file can hold")
    return found


def _walk(
    group: h5py.Group, key: str, path: str, found: dict[str, h5py.Dataset], seen: set[object]
) -> None:
    """Adds the datasets in group[key] to `found`, each once.

    Links are not followed, because they may lead to other files.  The library's own visit is not
    used, because it takes a stack frame for each nested group and has no limit.
    """
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        return
    item = group[key]
    if item in seen:
        return
    seen.add(item)
    if len(seen) > 2 * MAX_TENSORS:
        raise ValueError(f"it has more than {2 * MAX_TENSORS:,} tensors and groups")
    if isinstance(item, h5py.Dataset):
        found[path] = item
    elif isinstance(item, h5py.Group):
        if path.count("/") >= MAX_DEPTH:
            raise ValueError(f"its groups are more than {MAX_DEPTH} deep")
        for name in map(str, item):
            _walk(item, name, f"{path}/{name}", found, seen)


def _names(datasets: dict[str, h5py.Dataset]) -> dict[str, str]:
    """Returns the name "LAYER/WEIGHT" for each path."""
    is_keras_3 = any(key.startswith(KERAS_3_ROOTS) for key in datasets)
    counters = _layer_counters(datasets) if is_keras_3 else {}
    names = {}
    for key, dataset in datasets.items():
        parts = key.removeprefix("model_weights/").split("/")
        if "seed_generator" in parts:
            names[key] = key  # random state of a dropout layer
        elif not is_keras_3 and len(parts) > 1:
            names[key] = _weight_name(parts[-2], parts[-1].split(":")[0])
        elif len(parts) >= 4 and parts[-4] in KERAS_3_ROOTS and parts[-2] == "vars":
            layer = dataset.parent.attrs.get("name", counters.get(parts[-3], parts[-3]))
            names[key] = _numbered_weight(str(layer), parts[-1]) or key
        else:
            names[key] = key
    return _with_head(names, datasets)


def _with_head(names: dict[str, str], datasets: dict[str, h5py.Dataset]) -> dict[str, str]:
    """Renames the only dense layer to "predictions"."""
    kernels = [name for key, name in names.items() if datasets[key].ndim == 2]
    if len(kernels) != 1 or not kernels[0].endswith("/kernel"):
        return names
    head = kernels[0].removesuffix("kernel")
    return {
        key: f"predictions/{name.removeprefix(head)}" if name.startswith(head) else name
        for key, name in names.items()
    }


def _weight_name(layer: str, weight: str) -> str:
    # Keras appends a number if a process builds several models.
    layer = re.sub(r"^normalization_\d+$", "normalization", layer)
    return f"{layer}/{'kernel' if weight == 'depthwise_kernel' else weight}"


def _numbered_weight(layer: str, number: str) -> str | None:
    """Returns the name of a layer's weight from its number, which is Keras's order of creation."""
    if re.fullmatch(r"normalization(_\d+)?", layer):
        weights = ("mean", "variance", "count")
    elif layer.endswith("bn"):
        weights = ("gamma", "beta", "moving_mean", "moving_variance")
    else:
        weights = ("kernel", "bias")
    if not number.isdecimal() or int(number) >= len(weights):
        return None
    return _weight_name(layer, weights[int(number)])


def _layer_counters(datasets: dict[str, h5py.Dataset]) -> dict[str, str]:
    """Returns the layer name of each "CLASS_N" group.

    They are those of the variant with as many convolutions as the file.  Variants with the same
    numbers of convolutions (B1 and B2) have the same layer names.
    """
    groups = {key.split("/")[-3] for key in datasets if key.count("/") >= 3}
    convolutions = [
        sum(re.fullmatch(rf"{kind}(_\d+)?", group) is not None for group in groups)
        for kind in ("conv2d", "depthwise_conv2d")
    ]
    for variant in VARIANTS.values():
        order = layer_order(variant)
        if [len(order["conv2d"]), len(order["depthwise_conv2d"])] == convolutions:
            return {
                f"{kind}_{i}" if i else kind: layer
                for kind, layers in order.items()
                for i, layer in enumerate(layers)
            }
    return {}
