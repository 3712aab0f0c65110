"""The results of a benchmark as tables on the terminal, and as JSON."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from mlcls_jax.benchmark.results import Figures, ProgramResult
from mlcls_jax.benchmark.timing import Spread
from mlcls_jax.config.serialization import describe_network
from mlcls_jax.system.console import console, format_ms, print_table
from mlcls_jax.system.devices import describe_devices

_NOT_MEASURED = "–"


def print_figures(figures: Figures) -> None:
    """Prints all results, and the bottleneck of each phase."""
    place, config = figures.place, figures.config
    devices = describe_devices(place.devices, place.kind, place.processes, place.keeps_heap)
    network = describe_network(config.model, figures.classes)
    rows = [
        ["network", f"{network}, {figures.compute_dtype}, random weights"],
        ["batch", f"{figures.batch_size} images over all devices, {figures.classes} classes"],
        ["images", figures.images],
        ["devices", devices],
        *_memory_rows(figures),
    ]
    if figures.matmul:
        size, rate = figures.matmul.size, figures.matmul.flops_per_second
        peak = f"{rate.median / 1e9:,.0f} GFLOP/s {_share(rate)} ({size} x {size}, per device)"
        rows.append(["matmul peak", peak])
    if figures.input:
        rows.append(["input alone", f"{_rate(figures, figures.input)} images/s"])
    print_table("", ["benchmark", figures.what], rows)
    if figures.programs:
        _print_programs(figures)
    _print_bottlenecks(figures)


def _memory_rows(figures: Figures) -> list[list[str]]:
    rows = [["peak memory of process", f"{_bytes(figures.peak_rss)} resident"]]
    if figures.device_peak is not None:
        rows.append(["peak memory of device", _bytes(figures.device_peak)])
    return rows


def _print_programs(figures: Figures) -> None:
    lines: dict[str, Callable[[ProgramResult], str]] = {
        "trainable parameters": lambda program: f"{program.trainable:,}",
        "images/s, step alone": lambda program: _rate(figures, program.step),
        "  per device": lambda program: _per_device(figures, program.step),
        "images/s, end to end": lambda program: _rate(figures, program.train),
        "  per device ": lambda program: _per_device(figures, program.train),
        "ms, step alone": lambda program: _ms(program.step),
        "ms, loop with empty step": lambda program: _ms(program.host),
        "share of matmul peak": lambda program: _percent(figures.peak_share(program)),
        "GFLOP per image": lambda program: f"{program.cost.flops_per_image / 1e9:.2f}",
        "memory per device": lambda program: _bytes(program.cost.memory.peak),
        "collectives per step": _communicated,
        "compile": _compile_time,
    }
    rows = [[name, *map(line, figures.programs)] for name, line in lines.items()]
    measured = [row for row in rows if set(row[1:]) != {_NOT_MEASURED}]
    print_table("", ["", *(program.name for program in figures.programs)], measured)


def _print_bottlenecks(figures: Figures) -> None:
    for program in figures.programs:
        bottleneck = figures.bottleneck(program)
        if bottleneck:
            console.print(f"{program.name} is bound by {bottleneck.bound}: {bottleneck.why}.")
            console.print("  To make it faster, try:")
            for advice in bottleneck.change:
                console.print(f"  - {advice}")
    if figures.what != "all":
        console.print("Use --what all to find the bottleneck of training, and how to remove it.")


def to_json(figures: Figures) -> dict[str, Any]:
    """Returns all results, JSON-ready, in seconds, bytes and images/s; None if not measured."""
    rate = figures.matmul.flops_per_second if figures.matmul else None
    return {
        "what": figures.what,
        "config": dataclasses.asdict(figures.config),
        "place": dataclasses.asdict(figures.place),
        "images": figures.images,
        "classes": figures.classes,
        "image_size": figures.image_size,
        "compute_dtype": figures.compute_dtype,
        "batch_size": figures.batch_size,
        "images_per_second": figures.images_per_second,
        "matmul_flops_per_second": dataclasses.asdict(rate) if rate else None,
        "input": _timing(figures, figures.input),
        "programs": [_program(figures, program) for program in figures.programs],
        "peak_rss": figures.peak_rss,
        "device_peak": figures.device_peak,
    }


def _program(figures: Figures, program: ProgramResult) -> dict[str, Any]:
    cost, bottleneck = program.cost, figures.bottleneck(program)
    flops = cost.flops_per_image
    return {
        "name": program.name,
        "trainable": program.trainable,
        "compile_seconds": cost.seconds,
        "compile_cached": cost.cached,
        "flops_per_image": flops if math.isfinite(flops) else None,
        "peak_share": figures.peak_share(program),
        "memory": {**dataclasses.asdict(cost.memory), "peak": cost.memory.peak},
        "collectives": [dataclasses.asdict(collective) for collective in cost.collectives],
        "step": _timing(figures, program.step),
        "host_seconds_per_step": dataclasses.asdict(program.host) if program.host else None,
        "train": _timing(figures, program.train),
        "bottleneck": dataclasses.asdict(bottleneck) if bottleneck else None,
    }


def _timing(figures: Figures, seconds: Spread | None) -> dict[str, Any] | None:
    if seconds is None:
        return None
    rate = seconds.rate(figures.batch_size)
    return {
        "seconds_per_step": dataclasses.asdict(seconds),
        "images_per_second": dataclasses.asdict(rate),
        "images_per_second_per_device": rate.median / figures.place.devices,
    }


def _communicated(program: ProgramResult) -> str:
    if not program.cost.collectives:
        return _NOT_MEASURED
    return _bytes(sum(collective.bytes for collective in program.cost.collectives))


def _compile_time(program: ProgramResult) -> str:
    return f"{program.cost.seconds:.1f} s" + (" (cached)" if program.cost.cached else "")


def _per_device(figures: Figures, seconds: Spread | None) -> str:
    if seconds is None or figures.place.devices == 1:  # one device: the same as the line above
        return _NOT_MEASURED
    return f"{figures.batch_size / figures.place.devices / seconds.median:.1f}"


def _rate(figures: Figures, seconds: Spread | None) -> str:
    if seconds is None:
        return _NOT_MEASURED
    return f"{figures.batch_size / seconds.median:.1f} {_share(seconds)}"


def _share(spread: Spread) -> str:
    return f"±{spread.share:.0%}"


def _ms(seconds: Spread | None) -> str:
    return _NOT_MEASURED if seconds is None else format_ms(seconds.median)


def _percent(share: float | None) -> str:
    return _NOT_MEASURED if share is None else f"{share:.0%}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
