"""Binary targets of fuzz.py: damaged images, weight files and files of a run."""

import functools
import io
import json
import pickle
import random
import struct
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
from fuzz_inputs import changed, damaged, sound_files
from hypothesis import strategies as st
from safetensors.numpy import save

from mlcls_jax.config import Augment, Config
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.transforms import eval_image, train_image, uniforms_needed
from mlcls_jax.data.sampling import image_random
from mlcls_jax.evaluation.decision_rule import (
    DecisionRule,
    ThresholdCriterion,
    decision_rule_from_dict,
)
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.weights import provenance
from mlcls_jax.models.weights.formats import read_tensors
from mlcls_jax.models.weights.layouts import LAYOUTS
from mlcls_jax.run.best_scores import read_decision_rule
from mlcls_jax.run.trained_model import check_metadata
from mlcls_jax.run.workdir import CONFIG, DECISION_RULE, read_config

SIZE = 64
MAX_PIXELS = 4_000_000
AUGMENTS = (
    Augment(train_resize="random_crop", eval_resize="center_crop"),
    Augment(interpolation="bicubic"),
    Augment(train_resize="letterbox", eval_resize="letterbox", symmetry="d4"),
)
NUMBERS = st.integers(0, 2**60)
TORCH_FILES = ("torch_zip.pth", "torch_stream.pth")  # in tests/models/weights


def images() -> st.SearchStrategy:
    """Returns a strategy for damaged image files of all formats."""
    files = list(sound_files().values())
    return NUMBERS.map(lambda number: damaged(number, files))


def read_image(contents: bytes, place: Path) -> None:
    """Decodes and transforms an image file as the input pipeline does."""
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    augment = AUGMENTS[len(contents) % len(AUGMENTS)]
    image = open_image(contents, PixelFormat(MAX_PIXELS))
    random = image_random(0, 0, len(contents), uniforms_needed(augment))
    train_image(image, random, size=SIZE, augment=augment, out=out)
    eval_image(image, size=SIZE, augment=augment, out=out)


@functools.cache
def weight_files() -> dict[str, bytes]:
    """Returns {name: contents} with a small weight file of every kind."""
    tensors = {"conv_stem.weight": np.ones((4, 3, 3, 3), np.float32), "n": np.array(3)}
    tensors["bn1.weight"] = np.ones(4, np.float16)
    tests = Path(__file__).resolve().parents[2] / "tests" / "models" / "weights"
    torch = {f"{i}.pth": (tests / name).read_bytes() for i, name in enumerate(TORCH_FILES)}
    pickled = {f"{protocol}.pth": pickle.dumps(tensors, protocol) for protocol in (2, 4)}
    return {"a.h5": _hdf5(tensors), "b.safetensors": save(tensors), **torch, **pickled}


def _hdf5(tensors: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in tensors.items():
            file[f"{name}/kernel:0"] = value
        layer = file.create_dataset(
            "layers/conv2d/vars/0", (8, 8), "f4", chunks=(4, 4), compression=4
        )
        layer[:] = 1
        layer.parent.attrs["name"] = "stem_conv"
        file["link"] = h5py.SoftLink("/n")
        file["other"] = h5py.ExternalLink("other.h5", "/n")
    return buffer.getvalue()


SIDECAR = {
    "architecture": "tf_efficientnet_b0",
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "model_args": {"bn_eps": 1e-3, "bn_momentum": 0.1},
    "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "tag": "in1k"},
    "mlcls_jax": {
        "file": "b.safetensors",
        "variant": "b0",
        "classes": ["a", "b", "c"],
        "pretrained_config": provenance.to_json(PretrainedConfig(KERAS, IMAGENET)),
    },
}


def weights() -> st.SearchStrategy:
    """Returns a strategy for (name, damaged weight file, changed config.json next to it)."""
    files = weight_files()

    def contents(name: str, number: int) -> tuple[str, bytes, bytes]:
        if number % 20 == 0:
            return *multiplied(number // 20), _json(SIDECAR, number)
        others = [files[name]] * 3 + list(files.values())
        return name, damaged(number, others), _json(SIDECAR, number)

    return st.builds(contents, st.sampled_from(list(files)), NUMBERS)


def multiplied(number: int) -> tuple[str, bytes]:
    """Returns the name and contents of a small file that asks for much memory or time.

    Args:
        number: decides what is asked for, and how much.
    """
    kind, count = number % 5, number // 5 % 60_000
    if kind == 4:
        entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        header = json.dumps({str(i): entry for i in range(count)}).encode()
        return "names.safetensors", struct.pack("<Q", len(header)) + header
    # Memo: 0 is OrderedDict, 1 a list of pairs, 2 a tuple with that list.
    pairs = b"".join(b"X\x04\0\0\0%04xK\x01\x86" % i for i in range(count))
    ordered = b"ccollections\nOrderedDict\nq\0](q\1%seq\1\x85q\2" % pairs
    asked = (
        ordered + b"(" + b"h\0h\2R" * count + b"l.",  # copies
        b"(" * count + b"t" * count + b".",
        ordered + b"h\0h\2Rq\3" + b"h\0h\3b" * count + b".",  # states
        b"\x8b" + struct.pack("<i", count) + b"\x7f" * count + b".",  # digits
    )
    return "asks.pth", b"\x80\2" + asked[kind]


def load(value: tuple[str, bytes, bytes], place: Path) -> None:
    """Reads a weight file and looks for its pretrained config and classes."""
    name, contents, sidecar = value
    path = place / name
    path.write_bytes(contents)
    (place / "config.json").write_bytes(sidecar)
    try:
        read_tensors(path)
    except ValueError:
        _read_sidecar(path)
        raise
    _read_sidecar(path)


def _read_sidecar(path: Path) -> None:
    for layout in LAYOUTS:
        provenance.find_pretrained_config(path, layout, "b0", {})
    provenance.read_classes(path, 3)


def _json(value, number: int) -> bytes:
    """A changed JSON text; a quarter of them with damaged bytes."""
    draw = random.Random(number)
    text = json.dumps(changed(value, draw)).encode()
    return damaged(number, [text]) if draw.random() < 0.25 else text


def run_files() -> dict[str, dict]:
    """Returns {name: contents} of the JSON files of a run with two classes."""
    rule = ThresholdCriterion("f1", 0.9, 10, "one")
    decision_rule = asdict(DecisionRule(rule, (0.5, 0.25), (1.0, 2.0), ("a",), ()))
    metadata = {
        "step": 4,
        "phase": "head",
        "classes": ["a", "b"],
        "base_rate": {"frequencies": [0.5, 0.25], "included_classes": [True, False]},
        "pretrained_config": provenance.to_json(PretrainedConfig(KERAS, IMAGENET)),
        "weights": "raw",
        "decision_rule": decision_rule,
    }
    later = {"step": 4, "decision_rule": decision_rule}
    return {CONFIG: asdict(Config()), "metadata": metadata, DECISION_RULE: later}


def runs() -> st.SearchStrategy:
    """Returns a strategy for (name, changed contents) of a run's files."""
    files = run_files()
    return st.builds(
        lambda n, number: (n, _json(files[n], number)), st.sampled_from(list(files)), NUMBERS
    )


def read_run(value: tuple[str, bytes], place: Path) -> None:
    """Reads a file of a run."""
    name, contents = value
    (place / name).write_bytes(contents)
    if name == CONFIG:
        read_config(place)
        return
    if name == DECISION_RULE:
        read_decision_rule(place, run_files()["metadata"])
        return
    try:
        metadata = json.loads(contents)
    except (ValueError, RecursionError):
        return  # Orbax refuses it
    check_metadata(metadata, 4)
    provenance.from_json(metadata["pretrained_config"])
    if (decision_rule := metadata.get("decision_rule")) is not None:
        decision_rule_from_dict(decision_rule)
    read_decision_rule(place, metadata)
