"""Estimates how fast training is on many accelerators, and what limits it.

    python scripts/scaling/scaling_model.py                        # the tables of docs/scaling.md
    python scripts/scaling/scaling_model.py --cores 96 --loader threads    # with another input
    python scripts/scaling/scaling_model.py --write                # write them to docs/scaling.md

A step takes compute + all-reduce + waiting for input. Arithmetic, memory traffic and the bytes that
are summed over the devices are counts of compiled programs, from scaling_counts.py. The numbers of
the machines are published ones, with their sources in scaling_machines.py. The input is that of
scaling_input.py. Nothing was timed on an accelerator.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from scaling_counts import Counts, read_counts
from scaling_input import LOADERS, Input, most_rows
from scaling_machines import A100, FITTED, H100, PUBLISHED, V4, V5E, Published, System

DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
HUNGRY = ("b0", "b1", "b2", "b3")  # the variants whose input is compared with what they need
AS_MEASURED = Input()
BUCKETS = (1, 2, 4, 8)  # numbers of all-reduces that are compared
BUCKET_SYSTEMS = ((H100, 8), (V4, 32), (V5E, 256))


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
    counts: Counts,
    system: System,
    efficiency: float,
    reader: Input = AS_MEASURED,
    devices: int = 0,
) -> Step:
    """Returns the estimated step on a system.

    Args:
        counts: work of one device.
        system: the machine.
        efficiency: share of the roofline that is reached.
        reader: how images are read.
        devices: number of devices used; 0 uses all.
    """
    seconds, by_memory = roofline(counts, system)
    devices = devices or system.devices
    local = counts.batch * devices / system.hosts
    return Step(
        compute=seconds / efficiency,
        reduce=all_reduce(counts.reduced, devices, system),
        input=local / reader.rate(counts.image_size, system.cores),
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


def exposed(step: Step, counts: Counts, devices: int, system: System, buckets: int) -> float:
    """Returns the seconds of the all-reduce that the backward pass does not hide.

    The backward pass takes two thirds of the compute time and finishes the buckets, which are
    equally large, at equal distances. They are sent one after the other.

    Args:
        step: what `predict` returned.
        counts: work of one device.
        devices: number of devices.
        system: the machine.
        buckets: number of all-reduces; with 1, nothing is hidden, as in the program.
    """
    each = all_reduce(counts.reduced / buckets, devices, system)
    backward, end = step.compute * 2 / 3, 0.0
    for bucket in range(1, buckets + 1):
        end = max(end, backward * bucket / buckets) + each
    return end - backward


def bucket_table(counts: list[Counts], efficiency: float) -> str:
    """Returns the table of what the best number of buckets saves, by images per device."""
    header = ["system", "variant", "images per device", "compute ms", "one all-reduce ms"]
    header += ["best buckets", "not hidden ms", "step is shorter by"]
    rows = []
    for system, devices in BUCKET_SYSTEMS:
        for c in counts:
            if c.phase != "full" or c.variant not in ("b0", "b5"):
                continue
            for images in (c.batch, 4):
                step = predict(c, system, efficiency, devices=devices)
                step = replace(step, compute=step.compute * images / c.batch)
                times = {n: exposed(step, c, devices, system, n) for n in BUCKETS}
                best = min(times, key=lambda n: times[n])
                saved = (times[1] - times[best]) / (step.compute + times[1])
                name = f"{devices} x {system.name.split(' x ')[-1].removesuffix('-32')}"
                rows.append(
                    [
                        name,
                        c.variant,
                        f"{images}",
                        f"{1e3 * step.compute:.2f}",
                        f"{1e3 * times[1]:.2f}",
                        f"{best}",
                        f"{1e3 * times[best]:.2f}",
                        f"{saved:.1%}",
                    ]
                )
    return table(header, rows)


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


def system_table(counts: list[Counts], system: System, efficiency: float, reader: Input) -> str:
    """Returns the table of a system: the parts of the step per variant and phase."""
    header = ["variant", "phase", "compute ms", "all-reduce ms", "input ms", "images/s"]
    header += ["images/s needed per host", "efficiency", "limit", "devices at a fixed batch"]
    rows = []
    for c in counts:
        step = predict(c, system, efficiency, reader)
        images = c.batch * system.devices
        parts = [step.compute, step.reduce, step.input]
        rows.append(
            [c.variant, c.phase]
            + [f"{1e3 * seconds:.2f}" for seconds in parts]
            + [f"{images / step.total:,.0f}", f"{needed(c, system, efficiency):,.0f}"]
            + [f"{step.efficiency:.0%}", step.limit]
            + [f"{most_devices(c, system, efficiency)}"]
        )
    return table(header, rows)


def needed(counts: Counts, system: System, efficiency: float) -> float:
    """Returns the images/s that each host must read so that its devices never wait."""
    step = predict(counts, system, efficiency)
    return counts.batch * system.devices / system.hosts / (step.compute + step.reduce)


def need_table(
    counts: list[Counts], systems: Iterable[System], efficiency: float, reader: Input
) -> str:
    """Returns the table of what a host needs, next to what each loader reads there at most."""
    systems = list(systems)
    header = ["variant", "phase", "px"]
    for system in systems:
        header += [f"a host of {system.name} needs", *LOADERS]
    rows = []
    for c in counts:
        if c.variant not in HUNGRY:
            continue
        row = [c.variant, c.phase, f"{c.image_size}"]
        for system in systems:
            rates = [
                replace(reader, loader=name).rate(c.image_size, system.cores) for name in LOADERS
            ]
            row += [f"{rate:,.0f}" for rate in [needed(c, system, efficiency), *rates]]
        rows.append(row)
    return table(header, rows)


def report(counts: list[Counts], systems: list[System], efficiency: float, reader: Input) -> str:
    """Returns all tables in Markdown; `systems` are A100, H100 and V4."""
    compilers = ", ".join(sorted({c.compiler for c in counts}))
    head, *most = most_rows(reader)
    a100, h100, v4 = systems
    reads = f"{_processes(reader)} reads on {h100.cores} cores (H100) and {v4.cores} (TPU)"
    parts = [
        f"Counts of the compiled programs ({compilers}):",
        counts_table(counts),
        f"Published throughput and the model at {efficiency:.0%} of the roofline:",
        validation_table(counts, efficiency),
        f"The most images/s of a host with {_processes(reader)}:",
        table(head, most),
        f"Images/s that a host needs, and the most that {reads}:",
        need_table(counts, (h100, v4), efficiency, reader),
    ]
    loader = "the faster loader" if reader.loader == "auto" else f"data.loader={reader.loader}"
    for system in (a100, v4):
        where = f"{system.hosts} x {system.cores} cores, {loader}, {_processes(reader)} per host"
        parts += [f"{system.name}, {where}:", system_table(counts, system, efficiency, reader)]
    parts += ["Gradients in several all-reduces:", bucket_table(counts, efficiency)]
    return "\n\n".join(parts)


def _processes(reader: Input) -> str:
    return "one process" if reader.processes == 1 else f"{reader.processes} processes"


def with_tables(document: str, tables: str) -> str:
    """Returns the document with the tables between its two comments replaced."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.partition(END)[2]}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--cores", type=int, default=0, help="cores per host (default: as the real machine)")
    add("--loader", choices=("auto", *LOADERS), default="auto", help="auto: the faster one")
    add("--rand-augment", action="store_true", help="images are changed by RandAugment")
    add("--lock", type=float, help="µs of an image under the lock in threads (default: measured)")
    add("--core-speed", type=float, default=1.0, help="relative to the measured cores (default 1)")
    add("--processes", type=int, default=1, help="processes per host (default 1)")
    add(
        "--efficiency",
        type=float,
        default=0.0,
        help="share of the roofline (default: fitted to the published B0 and B4 of one A100)",
    )
    add("--write", action="store_true", help=f"write the tables to docs/{DOCUMENT.name}")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> str:
    """Runs the command and returns the tables."""
    options = parse(argv)
    counts = read_counts()
    efficiency = options.efficiency or fitted_efficiency(counts, PUBLISHED[:FITTED])
    systems = [replace(system, cores=options.cores or system.cores) for system in (A100, H100, V4)]
    reader = Input(
        options.loader, options.rand_augment, options.lock, options.core_speed, options.processes
    )
    tables = report(counts, systems, efficiency, reader)
    if options.write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_tables(document, tables), encoding="utf-8")
    return tables


if __name__ == "__main__":
    print(main())
