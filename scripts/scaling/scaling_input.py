"""The input of scaling_model.py: the most images per second that a host reads and decodes.

A process needs `core` seconds of a core for an image, of which `lock` seconds are under Python's
lock. So one process on n cores reads at most min(n / core, 1 / lock) images per second. Both times
are those of mlcls_jax/data/loaders/choice.py, measured on two cores with JPEGs of 640x480.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mlcls_jax.data.loaders.choice import Cost, costs

LOADERS = ("threads", "tf_data")
CORES = (2, 8, 32, 96, 208)
SIZES = (224, 456)  # px


@dataclass(frozen=True)
class Input:
    """How the images of a host are read.

    Attributes:
        loader: one of LOADERS; "auto": the faster one.
        rand_augment: whether images are changed by RandAugment.
        lock: microseconds of an image under the lock in `threads`, without RandAugment; None: as
            measured.
        core_speed: speed of a core, relative to those of the measurement.
        processes: processes that share the cores of the host.
    """

    loader: str = "auto"
    rand_augment: bool = False
    lock: float | None = None
    core_speed: float = 1.0
    processes: int = 1

    def rate(self, size: int, cores: int) -> float:
        """Returns the most images/s of a host with that many cores, at that image size in px."""
        names = LOADERS if self.loader == "auto" else (self.loader,)
        each = cores / self.processes
        return self.processes * max(self._cost(name, size).rate(each) for name in names)

    def _cost(self, name: str, size: int) -> Cost:
        cost = costs(size, self.rand_augment)[name]
        lock = cost.lock
        if name == "threads" and self.lock is not None:
            lock += self.lock - costs(size, changes=False)[name].lock
        return Cost(cost.core / self.core_speed, lock / self.core_speed)


def most_rows(reader: Input) -> Iterable[list[str]]:
    """Yields the rows of the table of the most images/s, with its header first."""
    head = ["data.loader", "RandAugment", "px"]
    yield head + [f"{cores} cores" for cores in CORES]
    for rand_augment in (False, True):
        for size in SIZES:
            for name in LOADERS:
                one = replace(reader, loader=name, rand_augment=rand_augment)
                rates = [f"{one.rate(size, cores):,.0f}" for cores in CORES]
                yield [name, "yes" if rand_augment else "no", f"{size}", *rates]
