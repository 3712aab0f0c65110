"""A TFDS data set with labels in all forms, which tests import when they run, as it needs TFDS."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + number, 8), (number, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue() + bytes(number)  # some files end with zeros


class TinySet(tfds.core.GeneratorBasedBuilder):
    """Has labels in all forms."""

    VERSION = tfds.core.Version("1.0.0")
    name = "tiny_set"

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "dog", "bird"])
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "frames": tfds.features.Sequence({"image": tfds.features.Image()}),
            "photo": tfds.features.Image(encoding_format="jpeg"),
            "objects": tfds.features.Sequence({"label": label, "area": np.int64}),
            "single": label,
            "withheld": label,
            "hot": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "attributes": {"old": np.bool_, "new": np.bool_},
            "nested": tfds.features.Sequence({"labels": tfds.features.Sequence(label)}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "extra": self._generate_examples()}

    def _generate_examples(self):
        for number, labels in enumerate(([0, 2, 2], [], [1])):
            yield (
                number,
                {
                    "image": jpeg(number),
                    "image/filename": f"name {number}.jpg",
                    "frames": [],
                    "photo": jpeg(number),
                    "objects": [{"label": label, "area": 5} for label in labels],
                    "single": number,
                    "withheld": -1 if number else 0,
                    "hot": [number % 2, 1],
                    "attributes": {"old": number == 0, "new": True},
                    "nested": [{"labels": [1]}],
                },
            )
