"""What the runs of all folds share: the images, and what is computed from them once."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlcls_jax.data.folds import Folds
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.image_source import ImageSource
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.data.sampling import ImageRandom


@dataclass(frozen=True, eq=False)
class Subset:
    """An ImageSource of some images of another one.

    Attributes:
        whole: the other source.
        rows: int64 [image], index in `whole` of each image.
    """

    whole: ImageSource
    rows: np.ndarray

    def train(self, index: int, random: ImageRandom, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        self.whole.train(int(self.rows[index]), random, out)

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        self.whole.evaluate(int(self.rows[index]), out)


@dataclass(frozen=True, eq=False)
class ImagePool:
    """The images of all folds.  Each run of a fold trains and validates on all of them.

    Attributes:
        folds: the images, as they were read and divided once.
        made: what was computed of all images, by what it is.
        bad: reasons why images cannot be read, by path, as the computations have found.
    """

    folds: Folds
    made: dict[Any, Any] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """Returns the paths of the images."""
        return self.folds.table.paths

    def rows(self, paths: Sequence[str]) -> np.ndarray:
        """Returns the index of each path: int64 [image]."""
        if "rows" not in self.made:
            self.made["rows"] = {path: row for row, path in enumerate(self.paths)}
        rows = self.made["rows"]
        return np.array([rows[path] for path in paths], np.int64)

    def cached(self, reader: Reader, key: Any, make: Callable[[], Reader]) -> Reader:
        """Returns the reader of all images with the cache that `make` builds, once for each key."""
        if key not in self.made:
            self.made[key] = make().cache
        return dataclasses.replace(reader, cache=self.made[key])

    def features(
        self,
        key: Any,
        paths: Sequence[str],
        reader: Reader,
        compute: Callable[[Sequence[str], Reader], np.ndarray],
    ) -> np.ndarray:
        """Returns the features of some images.

        The first call computes those of all images.  Images that could not be read are reported
        to every reader.

        Args:
            key: what the features are.
            paths: of the images.
            reader: of these images.
            compute: (paths of all images, their reader) -> [image, ...].

        Raises:
            ValueError: an image cannot be read and must not be skipped, or too many were skipped.
        """
        if key not in self.made:
            cache = reader.cache.whole if isinstance(reader.cache, Subset) else None
            self.made[key] = compute(self.paths, dataclasses.replace(reader, cache=cache))
            self.bad.update(reader.bad.own_reasons)
        for path in paths:
            if path in self.bad:
                reader.bad.report(path, ImageError(self.bad[path]))
        return self.made[key][self.rows(paths)]
