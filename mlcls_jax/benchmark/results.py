"""The results of one benchmark, and the rates and bottlenecks that follow from them."""

from dataclasses import dataclass, field

from mlcls_jax.benchmark.bottleneck import Bottleneck, Parts, Setting, find_bottleneck
from mlcls_jax.benchmark.timing import Spread
from mlcls_jax.config import Config
from mlcls_jax.system.hlo import Collective, MemoryUse


@dataclass(frozen=True)
class Place:
    """The hardware that was measured.

    Attributes:
        backend: "cpu", "gpu" or "tpu".
        kind: name of the devices.
        devices: number of devices of all processes together.
        processes: number of processes.
        keeps_heap: see heap.keeps_heap.
    """

    backend: str
    kind: str
    devices: int
    processes: int
    keeps_heap: bool


@dataclass(frozen=True)
class Matmul:
    """The measured peak rate of matrix products.

    Attributes:
        size: side of the square matrices.
        flops_per_second: of one device; see hardware.matmul_run.
    """

    size: int
    flops_per_second: Spread


@dataclass(frozen=True)
class Cost:
    """The cost of a program, from the compiler.

    Attributes:
        seconds: time to trace and compile.
        cached: whether the program was read from the compilation cache.
        flops_per_image: floating-point operations of the compiled program, including elementwise
            operations.
        memory: of one device.
        collectives: communication between devices in one call.
    """

    seconds: float
    cached: bool
    flops_per_image: float
    memory: MemoryUse
    collectives: tuple[Collective, ...]


@dataclass
class ProgramResult:
    """The results for one program: evaluation, or the training step of a phase.

    Attributes:
        name: "forward" for evaluation, otherwise the name of the phase.
        trainable: number of trainable parameters.
        share: share of this phase in the run's steps on images; 0 for evaluation.
        cost: from the compiler.
        step, host, train: seconds per step, see bottleneck.Parts; None if not measured.
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
    """All results of one benchmark.

    Attributes:
        config: of the run.
        what: the parts that were measured; one of options.benchmark.WHAT.
        place: the hardware.
        images: number and origin of the images, as text.
        classes: number of classes.
        image_size: side of the network's input in pixels.
        compute_dtype: such as "bfloat16".
        input: seconds to read a batch, from files to devices; None if not measured.
        matmul: None if not measured.
        programs: evaluation, then the phases.
        peak_rss: peak resident memory of the process, in bytes.
        device_peak: peak memory of one device, in bytes; None if the device does not report it.
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
    peak_rss: int = 0
    device_peak: int | None = None

    @property
    def batch_size(self) -> int:
        """Returns the number of images of one step, over all devices."""
        return self.config.data.batch_size

    def peak_share(self, program: ProgramResult) -> float | None:
        """Returns the share of the measured matmul peak in a step; None if not measured."""
        if program.step is None or self.matmul is None:
            return None
        rate = self.batch_size / self.place.devices / program.step.median
        return program.cost.flops_per_image * rate / self.matmul.flops_per_second.median

    def bottleneck(self, program: ProgramResult) -> Bottleneck | None:
        """Returns the bottleneck of a phase; None if not all of its parts were measured."""
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
        """Returns the mean rate of a run, weighted by the phases' shares of the steps on images.

        It is the end-to-end rate if that was measured, otherwise the rate of the steps alone. If
        only reading was measured, it is the rate of reading.
        """
        phases = [program for program in self.programs if program.share]
        seconds = [(program.train or program.step, program.share) for program in phases]
        if not seconds:
            return self.batch_size / self.input.median if self.input else 0.0
        return self.batch_size / sum(time.median * share for time, share in seconds if time)
