"""EfficientNets of other code bases: files, logits and statistics with weights of network_files.py.

The code bases are imported where they are used (reference_models.py).
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import network_files
import numpy as np
from network_files import CASES, CHANNELS, EVEN, KERAS_LAYOUTS, ODD, draw, is_statistic
from reference_models import CODE_BASES

NOT_STORED = ("backend", "keras_version")  # attributes that change with every version
MAX_LITERAL = 4  # values of a dataset that no tensor of the network has


def values() -> dict[str, np.ndarray]:
    """Returns everything that is stored of every case."""
    computed: dict[str, np.ndarray] = {}
    for case in CASES:  # cases that share weights come after the one that has them
        statistics = computed.get(f"{CASES[case].weights}: statistics")
        computed |= case_values(case, statistics)
    return computed


def case_values(case: str, statistics: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Returns what is stored of one case, by `case: what`.

    Args:
        case: a key of CASES.
        statistics: running statistics of its weights; by default those of a batch.
    """
    setting = CASES[case]
    network = CODE_BASES[setting.code_base].build(setting.variant, np.random.default_rng(0))
    is_keras = setting.code_base == "keras"
    side: Any = KerasSide(network) if is_keras else TorchSide(network)
    statistics = _set_weights(side, statistics)
    found: dict[str, Any] = {"file": side.file_name()}
    if case == setting.weights:
        shapes = {name: leaf.shape for name, leaf in side.tensors().items()}
        found["tensors"] = json.dumps(list(shapes.items()))
        found["statistics"] = statistics
    for name, size in (("odd", ODD), ("even", EVEN)):
        found[f"logits {name}"] = network.logits(network_files.images(size))
    if is_keras:
        found["features odd"] = network.features(network_files.images(ODD))
        layouts = KERAS_LAYOUTS if setting.variant == "b0" else KERAS_LAYOUTS[:1]
        found |= _keras_layouts(side, layouts)
    network.train_forward(network_files.images(ODD))
    found["trained"] = _first_channels(side.tensors())
    return {f"{case}: {what}": np.asarray(value) for what, value in found.items()}


def _set_weights(side: Any, statistics: np.ndarray | None) -> np.ndarray:
    """Draws the weights, and sets running statistics as they are stored.

    Returns:
        The statistics: the given ones, or coarsely those of a batch.
    """
    drawn = {n: draw(n, leaf.shape) for n, leaf in side.tensors().items() if not is_statistic(n)}
    side.assign(drawn)
    if statistics is None:
        side.measure_statistics(network_files.images(ODD))
        statistics = network_files.pack_statistics(side.tensors())
    shapes = {name: leaf.shape for name, leaf in side.tensors().items()}
    side.assign(network_files.unpack_statistics(statistics, shapes))
    return statistics


def _first_channels(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the first channels of each running statistic, float32 [statistic, channel]."""
    return np.stack([leaf[:CHANNELS] for name, leaf in tensors.items() if is_statistic(name)])


class TorchSide:
    """The tensors of a torch reference, by the names of its state dict."""

    def __init__(self, reference: Any):
        self._reference = reference

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns copies of all tensors by name."""
        state = self._reference.model.state_dict()
        return {name: value.numpy().copy() for name, value in state.items()}

    def assign(self, tensors: dict[str, np.ndarray]) -> None:
        """Replaces the named tensors."""
        import torch

        state = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        self._reference.model.load_state_dict(self._reference.model.state_dict() | state)

    def measure_statistics(self, images: np.ndarray) -> None:
        """Replaces running statistics by those of one batch."""
        import torch

        norms = [m for m in self._reference.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        self._reference.train_forward(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def file_name(self) -> str:
        """Returns the name of the weight file that its code base writes."""
        with TemporaryDirectory() as folder:
            paths = self._reference.save(Path(folder) / "files")
        name = next(iter(paths.values())).name
        return name if name.endswith(".safetensors") else "weights.safetensors"


class KerasSide:
    """The tensors of a Keras reference, by the names of its published files."""

    def __init__(self, reference: Any):
        self.reference = reference

    def model(self, with_top: bool = True, shape: tuple[int, ...] = (2, *ODD, 3)) -> Any:
        """Returns the model for images of a shape, with the current weights."""
        import keras

        keras.backend.clear_session()  # it numbers layers of the same kind in all models so far
        return self.reference.model(shape, with_top)

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns copies of all tensors by name."""
        return {name: weight.numpy() for name, weight in _weights(self.model()).items()}

    def assign(self, tensors: dict[str, np.ndarray]) -> None:
        """Replaces the named tensors."""
        model = self.model()
        for name, weight in _weights(model).items():
            if name in tensors:
                weight.assign(tensors[name])
        self.reference.set_weights(model.get_weights())

    def measure_statistics(self, images: np.ndarray) -> None:
        """Replaces running statistics by those of one batch."""
        from reference_keras import measure_statistics

        model = self.model(shape=images.shape)
        measure_statistics(model, images)
        self.reference.set_weights(model.get_weights())

    def file_name(self) -> str:
        """Returns the name of a file in the published layout."""
        return "published.h5"


def _weights(model: Any) -> dict[str, Any]:
    return {
        f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights
    }


def _keras_layouts(side: KerasSide, layouts: tuple[str, ...]) -> dict[str, str]:
    """Returns for each layout, with and without head, where it keeps each tensor, as JSON."""
    from reference_keras import write_earlier_keras_3, write_legacy, write_published

    writers = {
        "published.h5": write_published,
        "legacy.h5": write_legacy,
        "whole.h5": lambda model, path: model.save(path),
        "keras_3.weights.h5": lambda model, path: model.save_weights(path),
        "keras_3_0.weights.h5": write_earlier_keras_3,
    }
    found = {}
    for layout in layouts:
        for top in (True, False):
            with TemporaryDirectory() as folder:
                path = Path(folder) / layout
                writers[layout](side.model(top), path)
                title = f"{layout} {'with' if top else 'without'} top"
                found[title] = json.dumps(_layout_of(path, side.tensors()))
    return found


def _layout_of(path: Path, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the attributes of the groups, and the tensor or the values of each dataset."""
    sources = {(leaf.shape, leaf.tobytes()): name for name, leaf in tensors.items()}
    layout: dict[str, Any] = {"tensors": {}, "attributes": {}}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = item[()]
            source = sources.get((value.shape, value.tobytes()))
            assert source or value.size <= MAX_LITERAL, f"{name} is no tensor of the network"
            layout["tensors"][name] = source or value.tolist()
        attributes = {k: _plain(v) for k, v in item.attrs.items() if k not in NOT_STORED}
        if attributes and isinstance(item, h5py.Group):
            layout["attributes"][name] = attributes

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
    return layout


def _plain(value: Any) -> Any:
    """Returns an attribute as JSON has it."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return [item.decode() if isinstance(item, bytes) else str(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
