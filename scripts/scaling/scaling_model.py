"""How fast training would be on many accelerators, and what would limit it.

    python scripts/scaling/scaling_model.py                          # the tables of docs/scaling.md
    python scripts/scaling/scaling_model.py --input-rate 500 --cores 96 # with another input
    python scripts/scaling/scaling_model.py --write                  # puts the tables there

A step takes compute + all-reduce + waiting for input.  Arithmetic, memory traffic and the bytes
that are summed over the devices are those of compiled programs, which scaling_counts.py
reads.  The figures of the machines are published ones, stated below; nothing here was timed on an
accelerator.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from scaling_counts import Counts, read_counts

DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class System:
    """Published figures of a machine.

    Attributes:
        devices, hosts, cores: devices over all, machines, and processor cores of each machine.
        flops, memory: peak bfloat16 operations/s and bytes/s of one device.
        network: bytes/s of a ring all-reduce, in the sense of its formula (see `all_reduce`).
        latency: seconds of each of the ring's steps.
    """

    name: str
    devices: int
    hosts: int
    cores: int
    flops: float
    memory: float
    network: float
    latency: float


@dataclass(frozen=True)
class Published:
    """A published training throughput in images/s, in mixed precision; batch statistics train."""

    system: System
    variant: str
    devices: int
    rate: float


@dataclass(frozen=True)
class Step:
    """Seconds of one step: its parts follow one another, but input is read at the same time."""

    compute: float
    reduce: float
    input: float
    by_memory: bool

    @property
    def wait(self) -> float:
        """For input that takes longer than the rest."""
        return max(0.0, self.input - self.compute - self.reduce)

    @property
    def total(self) -> float:
        return self.compute + self.reduce + self.wait

    @property
    def efficiency(self) -> float:
        """Of the devices: the share of the step in which they compute."""
        return self.compute / self.total

    @property
    def limit(self) -> str:
        """The longest part, in words."""
        if self.wait:
            return "input"
        if self.reduce > self.compute:
            return "all-reduce"
        return "memory bandwidth" if self.by_memory else "arithmetic"


# NVIDIA's data sheet of the A100 80GB SXM, and of the DGX A100 for the cores.  Network: what NCCL
# reaches of NVLink's 300 GB/s in each direction, github.com/NVIDIA/nccl-tests/issues/149.
A100 = System("8 x A100", 8, 1, 128, 312e12, 2039e9, 230e9, 3e-6)
# arXiv:2304.01433 and Google's page of the TPU v4.  Network: a ring uses two of a chip's six links,
# 50 GB/s each in each direction.  A v4-32 has 16 chips; four share a host.
V4 = System("TPU v4-32", 16, 4, 120, 275e12, 1228e9, 100e9, 1e-6)
# NVIDIA's white paper of GA102: bfloat16 with float32 sums.  One device: no network.
RTX_3090 = System("RTX 3090", 1, 1, 1, 71e12, 936e9, float("inf"), 0.0)
# NVIDIA's DeepLearningExamples (TensorFlow 2 with XLA) and timm's results folder.
PUBLISHED = (
    Published(A100, "b0", 1, 3454.0),
    Published(A100, "b4", 1, 470.0),
    Published(RTX_3090, "b0", 1, 1752.0),
    Published(RTX_3090, "b5", 1, 113.6),
    Published(A100, "b0", 8, 20647.0),
    Published(A100, "b4", 8, 3550.0),
)
FITTED = 2  # the first so many of them
# Seconds of one core per image of 640 x 480: decoding, and resizing per output pixel.  From 1499
# images/s to 224 px and 1018 to 456 px on two cores, docs/input.md.
DECODE, RESIZE = 1.133e-3, 4.0e-9


def input_rate(image_size: int) -> float:
    """Images/s that one core reads, decodes and resizes to that many pixels."""
    return 1.0 / (DECODE + RESIZE * image_size**2)


def roofline(counts: Counts, system: System) -> tuple[float, bool]:
    """(seconds, whether memory is the limit) of a step at both published peaks."""
    arithmetic, memory = counts.flops / system.flops, counts.traffic / system.memory
    return max(arithmetic, memory), memory > arithmetic


def all_reduce(reduced: float, devices: int, system: System) -> float:
    """Seconds of a ring all-reduce: 2 (n-1)/n of the bytes leave each device, in 2 (n-1) steps."""
    others = devices - 1
    return 2 * others * (reduced / devices / system.network + system.latency)


def predict(
    counts: Counts, system: System, efficiency: float, rate: float = 1.0, devices: int = 0
) -> Step:
    """The step of a system.

    Args:
        efficiency: share of the roofline's speed that is reached.
        rate: of input, times that of `input_rate`.
        devices: of the system; 0: all.
    """
    seconds, by_memory = roofline(counts, system)
    devices = devices or system.devices
    local = counts.batch * devices / system.hosts
    return Step(
        compute=seconds / efficiency,
        reduce=all_reduce(counts.reduced, devices, system),
        input=local / (system.cores * rate * input_rate(counts.image_size)),
        by_memory=by_memory,
    )


def fitted_efficiency(counts: Iterable[Counts], published: Iterable[Published]) -> float:
    """Share of the roofline that published throughputs of one device reach: the geometric mean."""
    full = {c.variant: c for c in counts if c.phase == "full"}
    shares = [
        roofline(full[known.variant], known.system)[0] * known.rate / full[known.variant].batch
        for known in published
    ]
    return geometric_mean(shares)


def most_devices(counts: Counts, system: System, efficiency: float, share: float = 0.8) -> int:
    """The largest power of two at which a fixed batch keeps the devices busy for that share.

    The batch is that of all devices of the system together; input is left out.
    """
    compute = roofline(counts, system)[0] / efficiency * system.devices
    devices = 1
    while compute / (2 * devices) > share / (1 - share) * all_reduce(
        counts.reduced, 2 * devices, system
    ):
        devices *= 2
    return devices


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def counts_table(counts: list[Counts]) -> str:
    """Per image, and what crosses the network per step."""
    header = ["variant", "phase", "px", "batch per device", "GFLOP per image"]
    header += ["MB per image", "all-reduce MB", "peak GB"]
    rows = (
        [
            c.variant,
            c.phase,
            f"{c.image_size}",
            f"{c.batch}",
            f"{c.flops / c.batch / 1e9:.2f}",
            f"{c.traffic / c.batch / 1e6:.0f}",
            f"{c.reduced / 1e6:.2f}",
            f"{c.peak / 1e9:.1f}",
        ]
        for c in counts
    )
    return table(header, rows)


def validation_table(counts: list[Counts], efficiency: float) -> str:
    """Published throughput beside the model's, without input: theirs is another."""
    header = ["device", "variant", "devices", "published images/s", "model", "model / published"]
    rows = []
    for known in PUBLISHED:
        for c in counts:
            if (c.variant, c.phase) == (known.variant, "full"):
                step = predict(c, known.system, efficiency, devices=known.devices)
                rate = c.batch * known.devices / (step.compute + step.reduce)
                name = known.system.name.removeprefix("8 x ")
                row = [name, known.variant, f"{known.devices}", f"{known.rate:,.0f}"]
                rows.append([*row, f"{rate:,.0f}", f"{rate / known.rate:.2f}"])
    return table(header, rows)


def system_table(counts: list[Counts], system: System, efficiency: float, rate: float = 1.0) -> str:
    """Parts of the step per variant and phase."""
    header = ["variant", "phase", "compute ms", "all-reduce ms", "input ms", "images/s"]
    header += ["images/s needed per host", "efficiency", "limit", "devices at a fixed batch"]
    rows = []
    for c in counts:
        step = predict(c, system, efficiency, rate)
        images = c.batch * system.devices
        busy = images / (step.compute + step.reduce)
        parts = [step.compute, step.reduce, step.input]
        rows.append(
            [c.variant, c.phase]
            + [f"{1e3 * seconds:.2f}" for seconds in parts]
            + [f"{images / step.total:,.0f}", f"{busy / system.hosts:,.0f}"]
            + [f"{step.efficiency:.0%}", step.limit]
            + [f"{most_devices(c, system, efficiency)}"]
        )
    return table(header, rows)


def report(counts: list[Counts], systems: Iterable[System], efficiency: float, rate: float) -> str:
    """All tables, in Markdown."""
    compilers = ", ".join(sorted({c.compiler for c in counts}))
    parts = [
        f"Counts of the compiled programs ({compilers}):",
        counts_table(counts),
        f"Published throughput and the model at {efficiency:.0%} of the roofline:",
        validation_table(counts, efficiency),
    ]
    for system in systems:
        core = f"{rate * input_rate(224):.0f} images/s to 224 px"
        where = f"{system.hosts} x {system.cores} cores, each of which reads {core}"
        parts += [f"{system.name}, {where}:", system_table(counts, system, efficiency, rate)]
    return "\n\n".join(parts)


def with_tables(document: str, tables: str) -> str:
    """The document with other tables between the two comments."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> str:
    """What the options ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--input-rate",
        type=float,
        default=input_rate(224),
        help="images/s that one core reads and resizes to 224 px; other sizes in proportion",
    )
    parser.add_argument("--cores", type=int, default=0, help="of each host; 0: of the real machine")
    parser.add_argument(
        "--efficiency",
        type=float,
        default=0.0,
        help="share of the roofline; 0: the one that fits one A100's published B0 and B4",
    )
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    options = parser.parse_args(argv)
    counts = read_counts()
    efficiency = options.efficiency or fitted_efficiency(counts, PUBLISHED[:FITTED])
    systems = [replace(system, cores=options.cores or system.cores) for system in (A100, V4)]
    tables = report(counts, systems, efficiency, options.input_rate / input_rate(224))
    if options.write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_tables(document, tables), encoding="utf-8")
    return tables


if __name__ == "__main__":
    print(main())
