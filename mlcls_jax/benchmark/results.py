"""The figures of one benchmark, and what follows from them by arithmetic."""

from dataclasses import dataclass, field

from mlcls_jax.benchmark.bottleneck import Bottleneck, Parts, Setting, find_bottleneck
from mlcls_jax.benchmark.timing import Spread
from mlcls_jax.config import Config
from mlcls_jax.system.hlo import Collective, MemoryUse


@dataclass(frozen=True)
class Place:
    """Where it was measured.

    devices: of all processes together; kind: what the devices call themselves.
    """

    backend: str
    kind: str
    devices: int
    processes: int
    keeps_heap: bool


@dataclass(frozen=True)
class Matmul:
    """The measured peak: floating-point operations per second of one device (see hardware)."""

    size: int
    flops_per_second: Spread


@dataclass(frozen=True)
class Cost:
    """What the compiler says of a program.

    seconds: from the config to the compiled program; cached: it was read from the cache.
    flops_per_image: by the compiler's count, so of the form that it runs, elementwise included.
    memory: of one device.
    """

    seconds: float
    cached: bool
    flops_per_image: float
    memory: MemoryUse
    collectives: tuple[Collective, ...]


@dataclass
class ProgramResult:
    """A program of the run: evaluation ("forward") or the step of a phase, by the phase's name.

    trainable: parameters that train.
    share: of the run's steps on images that are of this phase; 0 for evaluation.
    step, host, train: seconds per step, see verdict.Parts; None where not measured.
    """

    name: str
    trainable: int
    share: float
    cost: Cost
    step: Spread | None = None
    host: Spread | None = None
    train: Spread | None = None


@dataclass
class Figures:
    """Of one benchmark.

    images: where they came from, in words.
    input: seconds of a batch from files to devices.
    """

    config: Config
    what: str
    place: Place
    images: str
    classes: int
    image_size: int
    compute_dtype: str
    input: Spread | None = None
    matmul: Matmul | None = None
    programs: list[ProgramResult] = field(default_factory=list)
    peak_rss: int = 0  # bytes, of the whole process so far
    device_peak: int | None = None  # bytes, of one device so far; None: it does not count

    @property
    def batch_size(self) -> int:
        """Images of one step, over all devices."""
        return self.config.data.batch_size

    def peak_share(self, program: ProgramResult) -> float | None:
        """Of the measured matmul peak (MFU relative to that peak); None where not measured."""
        if program.step is None or self.matmul is None:
            return None
        rate = self.batch_size / self.place.devices / program.step.median
        return program.cost.flops_per_image * rate / self.matmul.flops_per_second.median

    def verdict(self, program: ProgramResult) -> Bottleneck | None:
        """What bounds a phase; None where not all of its parts were measured."""
        share = self.peak_share(program)
        if not (program.step and program.host and program.train and self.input) or share is None:
            return None
        parts = Parts(
            compute=program.step.median,
            input=self.input.median,
            host=program.host.median,
            train=program.train.median,
        )
        setting = Setting(
            cpu=self.place.backend == "cpu",
            keeps_heap=self.place.keeps_heap,
            compute_dtype=self.compute_dtype,
            cache=self.config.data.cache,
            peak_share=share,
        )
        return find_bottleneck(parts, setting)

    @property
    def images_per_second(self) -> float:
        """Of a whole run, by its phases' shares of the steps on images; of the input, if only
        that is known.

        End to end where that was measured, else of the steps alone.
        """
        phases = [program for program in self.programs if program.share]
        seconds = [(program.train or program.step, program.share) for program in phases]
        if not seconds:
            return self.batch_size / self.input.median if self.input else 0.0
        return self.batch_size / sum(time.median * share for time, share in seconds if time)
