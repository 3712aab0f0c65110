"""Estimates how fast training is on many accelerators, and what limits it.

    python scripts/scaling/scaling_model.py                        # the tables of docs/scaling.md
    python scripts/scaling/scaling_model.py --input-rate 500 --cores 96    # with another input
    python scripts/scaling/scaling_model.py --write                # write them to docs/scaling.md

A step takes compute + all-reduce + waiting for input. Arithmetic, memory traffic and the bytes that
are summed over the devices are counts of compiled programs, from scaling_counts.py. The numbers of
the machines are published ones, with their sources below. Nothing was timed on an accelerator.
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
        name: name in the tables.
        devices: number of devices over all hosts.
        hosts: number of hosts.
        cores: processor cores per host.
        flops: peak bfloat16 operations/s of one device.
        memory: memory bandwidth of one device in bytes/s.
        network: bytes/s of a ring all-reduce, as used in `all_reduce`.
        latency: seconds per step of the ring.
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
    """A published training throughput in images/s, in mixed precision, with batch statistics."""

    system: System
    variant: str
    devices: int
    rate: float


@dataclass(frozen=True)
class Step:
    """Seconds of one step; compute and all-reduce follow each other, input is read meanwhile."""

    compute: float
    reduce: float
    input: float
    by_memory: bool

    @property
    def wait(self) -> float:
        """Seconds of waiting for input."""
        return max(0.0, self.input - self.compute - self.reduce)

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.reduce + self.wait

    @property
    def efficiency(self) -> float:
        """Share of the step in which the devices compute."""
        return self.compute / self.total

    @property
    def limit(self) -> str:
        """Name of the longest part."""
        if self.wait:
            return "input"
        if self.reduce > self.compute:
            return "all-reduce"
        return "memory bandwidth" if self.by_memory else "arithmetic"


# NVIDIA's data sheets of the A100 80GB SXM, and of the DGX A100 for the cores. Network: the part of
# NVLink's 300 GB/s per direction that NCCL reaches, github.com/NVIDIA/nccl-tests/issues/149.
A100 = System("8 x A100", 8, 1, 128, 312e12, 2039e9, 230e9, 3e-6)
# arXiv:2304.01433 and Google's page of the TPU v4. Network: a ring uses two of a chip's six links,
# with 50 GB/s each per direction. A v4-32 has 16 chips; four share a host.
V4 = System("TPU v4-32", 16, 4, 120, 275e12, 1228e9, 100e9, 1e-6)
# NVIDIA's white paper of GA102: bfloat16 with float32 sums. One device, so no network.
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
FITTED = 2  # the first two of PUBLISHED determine the efficiency
# Seconds of one core per image of 640 x 480: decoding, and resizing per output pixel. From 1499
# images/s to 224 px and 1018 to 456 px on two cores, docs/performance.md.
DECODE, RESIZE = 1.133e-3, 4.0e-9


def input_rate(image_size: int) -> float:
    """Returns the images/s that one core reads, decodes and resizes to a square of that size."""
    return 1.0 / (DECODE + RESIZE * image_size**2)


def roofline(counts: Counts, system: System) -> tuple[float, bool]:
    """Returns the seconds of a step at the published peaks, and whether memory is the limit."""
    arithmetic, memory = counts.flops / system.flops, counts.traffic / system.memory
    return max(arithmetic, memory), memory > arithmetic


def all_reduce(reduced: float, devices: int, system: System) -> float:
    """Returns the seconds of a ring all-reduce.

    Each device sends 2 (n-1)/n of the bytes, in 2 (n-1) steps.
    """
    others = devices - 1
    return 2 * others * (reduced / devices / system.network + system.latency)


def predict(
    counts: Counts, system: System, efficiency: float, rate: float = 1.0, devices: int = 0
) -> Step:
    """Returns the estimated step on a system.

    Args:
        counts: work of one device.
        system: the machine.
        efficiency: share of the roofline that is reached.
        rate: speed of input, relative to `input_rate`.
        devices: number of devices used; 0 uses all.
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
    """Returns the share of the roofline that published throughputs of one device reach.

    It is the geometric mean of their shares.
    """
    full = {c.variant: c for c in counts if c.phase == "full"}
    shares = [
        roofline(full[known.variant], known.system)[0] * known.rate / full[known.variant].batch
        for known in published
    ]
    return geometric_mean(shares)


def most_devices(counts: Counts, system: System, efficiency: float, share: float = 0.8) -> int:
    """Returns the largest power of two at which a fixed batch keeps the devices busy.

    The batch is the global batch of the whole system; input is ignored.

    Args:
        counts: work of one device.
        system: the machine.
        efficiency: share of the roofline that is reached.
        share: least share of the step in which the devices must compute.
    """
    compute = roofline(counts, system)[0] / efficiency * system.devices
    devices = 1
    while compute / (2 * devices) > share / (1 - share) * all_reduce(
        counts.reduced, 2 * devices, system
    ):
        devices *= 2
    return devices


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def counts_table(counts: list[Counts]) -> str:
    """Returns the table of the counts."""
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
    """Returns the table of published throughput and the model's, which ignores input here."""
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
    """Returns the table of a system: the parts of the step per variant and phase."""
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
    """Returns all tables in Markdown."""
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
    """Returns the document with the tables between its two comments replaced."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> str:
    """Runs the command and returns the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--input-rate",
        type=float,
        default=input_rate(224),
        help="images/s that one core reads and resizes to 224 px; other sizes scale with it",
    )
    parser.add_argument(
        "--cores", type=int, default=0, help="cores per host (default: as the real machine)"
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        default=0.0,
        help="share of the roofline (default: fitted to the published B0 and B4 of one A100)",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write the tables to docs/{DOCUMENT.name}"
    )
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
