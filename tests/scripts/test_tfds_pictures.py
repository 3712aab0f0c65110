"""TFDS data sets, made here in their real layout; where TensorFlow Datasets is installed."""

import io

import numpy as np
import pack_dataset
import pytest
from PIL import Image

from mlcls_jax.data.decoding import read_file
from mlcls_jax.data.packed import read_packed

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's and its data sets'
tfds = pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + number, 8), (number, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


class TinySet(tfds.core.GeneratorBasedBuilder):
    """Features as COCO's, and labels in the other forms."""

    VERSION = tfds.core.Version("1.0.0")
    name = "tiny_set"

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "dog", "bird"])
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "picture": tfds.features.Image(encoding_format="jpeg"),
            "objects": tfds.features.Sequence({"label": label, "area": np.int64}),
            "single": label,
            "withheld": label,
            "hot": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "attributes": {"old": np.bool_, "new": np.bool_},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, labels in enumerate(([0, 2, 2], [], [1])):
            yield (
                number,
                {
                    "image": jpeg(number),
                    "image/filename": f"name {number}.jpg",
                    "picture": jpeg(number),
                    "objects": [{"label": label, "area": 5} for label in labels],
                    "single": number,
                    "withheld": -1 if number else 0,
                    "hot": [number % 2, 1],
                    "attributes": {"old": number == 0, "new": True},
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinySet(data_dir=folder).download_and_prepare()
    return folder


def pack(data_dir, out, *arguments) -> int:
    start = ["--tfds", "tiny_set", "--split", "train", "--data_dir", str(data_dir)]
    return pack_dataset.main([*start, "--out", str(out), "--check", *arguments])


@pytest.mark.parametrize(
    ("feature", "classes", "labels"),
    [
        ("objects/label", ("cat", "dog", "bird"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        ("single", ("cat", "dog", "bird"), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("withheld", ("cat", "dog", "bird"), [[1, 0, 0], [-1, -1, -1], [-1, -1, -1]]),
        ("hot", ("class_0", "class_1"), [[0, 1], [1, 1], [0, 1]]),
        ("attributes", ("new", "old"), [[1, 1], [1, 0], [1, 0]]),
    ],
)
def test_labels_become_columns(data_dir, tmp_path, feature, classes, labels):
    assert pack(data_dir, tmp_path / "p", "--label_feature", feature) == 0
    table = read_packed(tmp_path / "p")
    order = np.argsort(table.filenames)  # TFDS shuffles when it writes
    assert np.array(table.filenames)[order].tolist() == [f"name {i}.jpg" for i in range(3)]
    assert sorted(table.classes) == sorted(classes)
    named = table.with_classes(classes, "", "")
    assert named.labels[order].tolist() == labels
    assert [read_file(table.paths[i]) for i in order] == [jpeg(number) for number in range(3)]


def test_files_without_names_are_numbered(data_dir, tmp_path):
    features = ("--label_feature", "single", "--image_feature", "picture")
    assert pack(data_dir, tmp_path / "p", *features) == 0
    assert read_packed(tmp_path / "p").filenames == tuple(f"train_{i:08d}.jpg" for i in range(3))


def test_mistakes_are_named(data_dir, tmp_path, capsys):
    for arguments, words in [
        (("--label_feature", "objects/name"), "--label_feature objects/name: there is no such"),
        (("--label_feature", "objects"), "neither classes nor"),
        (("--image_feature", "photo"), "--image_feature photo: there is no such feature"),
        (("--split", "dev", "--label_feature", "single"), "--split dev: "),
        (("--tfds", "no_such_set"), "--tfds no_such_set: "),
    ]:
        assert pack(data_dir, tmp_path / "p", *arguments) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("pack_dataset: ") and words in error
    assert not (tmp_path / "p").exists()
