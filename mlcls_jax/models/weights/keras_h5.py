"""Reads the weights of a Keras EfficientNet from HDF5, without Keras or TensorFlow.

Three layouts are in circulation:
- published (keras.applications, `save_weights("x.h5")`): `LAYER/LAYER/WEIGHT:0`; Keras 3 writes
  it without `:0`, and a whole model (`model.save("x.h5")`) has it below `model_weights`;
- Keras 3 (`save_weights("x.weights.h5")`): `layers/CLASS_N/vars/I`, where N counts the layers of a
  class and the attribute `name` of `vars` is the layer's name;
- earlier Keras 3: the same without that attribute, so a layer is known by its place in the model.

An EfficientNet may be a layer of another model: its own layers then stand one group deeper, and the
only dense layer is taken for the head.
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
MAX_EXPANSION = 16  # No float weights compress further; more means a size that is only claimed.
MAX_DEPTH = 32  # of groups; Keras's own are ten deep at most


def read_keras(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the weights of a Keras EfficientNet, with or without top, by layer and weight name.

    Args:
        path: an HDF5 file in one of the layouts above.

    Returns:
        "LAYER/WEIGHT" to array, in Keras's own axis order, such as "stem_conv/kernel",
        "block1a_dwconv/kernel" ([k, k, channel, 1]), "stem_bn/moving_mean",
        "normalization/variance", "predictions/bias".  A tensor that fits no layer of an
        EfficientNet has its path in the file as name.  Optimizer state is left out.

    Raises:
        ValueError: no such file, not HDF5, truncated, a size that the file cannot hold, data kept
            in another file or that are no numbers, or two tensors of one name.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            datasets = _datasets(file, path.stat().st_size)
            names = _names(datasets)
            repeated = [name for name, count in Counter(names.values()).items() if count > 1]
            if repeated:
                raise ValueError(f"it holds several tensors {', '.join(sorted(repeated))}")
            return {names[key]: dataset[()] for key, dataset in datasets.items()}
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; check the path of the weight file") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is not a usable HDF5 weight file: {reason}; get the file again"
        ) from error


def layer_order(variant: Variant) -> dict[str, list[str]]:
    """Names of the layers with weights by Keras class, in the order of the model."""
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
    """All datasets by path, after checks of all that reading them takes for granted."""
    found: dict[str, h5py.Dataset] = {}
    seen: set[object] = set()
    for name in sorted(file.keys() - set(NOT_WEIGHTS)):
        _walk(file, name, name, found, seen)
    claimed = 0
    for name, dataset in found.items():
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"the data of {name} are in another file")
        # Any other kind is no tensor; text and rows of variable length are kept elsewhere in the
        # file, where many may claim the same bytes.
        if dataset.shape is None or dataset.dtype.kind not in "biuf":
            raise ValueError(f"{name} is no array of numbers")
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize  # is decompressed whole
        claimed += max(dataset.nbytes, chunk)
    if claimed > MAX_EXPANSION * file_size:
        raise ValueError(f"its tensors claim {claimed} bytes, more than the file can hold")
    return found


def _walk(
    group: h5py.Group, key: str, path: str, found: dict[str, h5py.Dataset], seen: set[object]
) -> None:
    """Adds the datasets in group[key], each once.

    Links are not followed, as they may lead to other files, and groups only so deep: the library's
    own visit takes a frame of the stack for each.
    """
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        return
    item = group[key]
    if item in seen:
        return
    seen.add(item)
    if isinstance(item, h5py.Dataset):
        found[path] = item
    elif isinstance(item, h5py.Group):
        if path.count("/") >= MAX_DEPTH:
            raise ValueError(f"its groups are more than {MAX_DEPTH} deep")
        for name in map(str, item):
            _walk(item, name, f"{path}/{name}", found, seen)


def _names(datasets: dict[str, h5py.Dataset]) -> dict[str, str]:
    """The name "LAYER/WEIGHT" for each path."""
    is_keras_3 = any(key.startswith(KERAS_3_ROOTS) for key in datasets)
    counters = _layer_counters(datasets) if is_keras_3 else {}
    names = {}
    for key, dataset in datasets.items():
        parts = key.removeprefix("model_weights/").split("/")
        if "seed_generator" in parts:
            names[key] = key  # the random state of a dropout layer
        elif not is_keras_3 and len(parts) > 1:
            names[key] = _weight_name(parts[-2], parts[-1].split(":")[0])
        elif len(parts) >= 4 and parts[-4] in KERAS_3_ROOTS and parts[-2] == "vars":
            layer = dataset.parent.attrs.get("name", counters.get(parts[-3], parts[-3]))
            names[key] = _numbered_weight(str(layer), parts[-1]) or key
        else:
            names[key] = key
    return _with_head(names, datasets)


def _with_head(names: dict[str, str], datasets: dict[str, h5py.Dataset]) -> dict[str, str]:
    """Calls the only dense layer "predictions", whatever its maker has called it."""
    kernels = [name for key, name in names.items() if datasets[key].ndim == 2]
    if len(kernels) != 1 or not kernels[0].endswith("/kernel"):
        return names
    head = kernels[0].removesuffix("kernel")
    return {
        key: f"predictions/{name.removeprefix(head)}" if name.startswith(head) else name
        for key, name in names.items()
    }


def _weight_name(layer: str, weight: str) -> str:
    # An unnamed layer is numbered on when a process builds several models.
    layer = re.sub(r"^normalization_\d+$", "normalization", layer)
    return f"{layer}/{'kernel' if weight == 'depthwise_kernel' else weight}"


def _numbered_weight(layer: str, number: str) -> str | None:
    """The name of a layer's weight from its number, in the order in which Keras creates them."""
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
    """Layer name for each "CLASS_N" group, of the variant with as many convolutions as the file.

    Variants that share these numbers (B1 and B2) have equal layer names.
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
