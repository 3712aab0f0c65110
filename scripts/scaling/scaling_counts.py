"""Counts the work of one device in a compiled training step, and stores it in docs/scaling.json.

    python scripts/scaling/scaling_counts.py                   # all variants and phases
    python scripts/scaling/scaling_counts.py --variants b0 b4 --phases full

With libtpu (see tpu_compiler.py) the programs are those of a TPU v4-32 slice. Without it they are
those of eight virtual CPU devices, with the same arithmetic and all-reduce but more memory traffic,
because a CPU program fuses less. Nothing is run. Each row is stored as soon as it is known and
replaces an earlier row of the same variant and phase.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from tpu_compiler import has_tpu_compiler, tpu_mesh

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.config.schema import image_size
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.step.programs import step_program, step_spec
from mlcls_jax.system import hlo
from mlcls_jax.system.devices import make_mesh

STORED = Path(__file__).parents[2] / "docs" / "scaling.json"
TOPOLOGY = "v4:2x2x4"
# Compiles faster. The head's step of b0 has 3 % less traffic than with the default effort.
QUICK: Any = {"exec_time_optimization_effort": -1.0}
VARIANTS = tuple(f"b{i}" for i in range(8))
# Images per device; all fit into 32 GB. In some layouts a TPU pads smaller batches to 128 images,
# which costs traffic.
BATCH = dict(zip(VARIANTS, (128, 128, 128, 128, 128, 32, 16, 16), strict=True))
CLASSES = 80
PHASES = {
    "head": Phase("head", "1000 steps", [Group("head/.*", 1e-2)]),
    "full": Phase("full", "1000 steps", [Group(".*", 1e-3)]),
}


@dataclass(frozen=True)
class Counts:
    """The work of one device in one step, by the compiler's analysis.

    Attributes:
        variant: name of the network.
        phase: "head" (the rest is frozen) or "full"; batch statistics are frozen in both.
        batch: images per device.
        image_size: pixels.
        flops: arithmetic operations.
        traffic: bytes read from and written to the device's memory.
        reduced: bytes summed over the devices by all collectives of the program.
        peak: bytes of memory needed.
        compiler: target of the compiler: "TPU v4" or "cpu".
    """

    variant: str
    phase: str
    batch: int
    image_size: int
    flops: float
    traffic: float
    reduced: int
    peak: int
    compiler: str


def count(variant: str, phase: str, batch: int, mesh: jax.sharding.Mesh) -> Counts:
    """Compiles the step of one phase for a mesh and counts its work.

    Args:
        variant: name of the network.
        phase: "head" or "full".
        batch: images per device.
        mesh: devices to compile for.
    """
    config = Config(
        data=Data(batch_size=batch * mesh.size),
        model=Model(variant=variant, compute_dtype="bfloat16"),
        phases=[PHASES[phase]],
    )
    (phase_plan,) = plan_phases(
        config.phases,
        images=1,
        batch_size=config.data.batch_size,
        every=config.evaluation.every,
    )
    program = step_program(
        step_spec(config, CLASSES), PretrainedConfig(KERAS, IMAGENET), phase_plan, mesh
    )
    compiler = mesh.devices.flat[0].device_kind
    executable = program.lower().compile(QUICK if compiler.startswith("TPU") else None)
    cost = executable.cost_analysis() or {}
    return Counts(
        variant=variant,
        phase=phase,
        batch=batch,
        image_size=image_size(config.model),
        flops=hlo.flops(executable),
        traffic=float(cost["bytes accessed"]),
        reduced=sum(collective.bytes for collective in hlo.collectives(executable)),
        peak=hlo.memory(executable).peak,
        compiler=compiler,
    )


def read_counts(path: Path = STORED) -> list[Counts]:
    """Returns the rows that `store` wrote.

    Raises:
        ValueError: the file is missing or has other contents.
    """
    try:
        return [Counts(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: {error}; write it with scripts/scaling/scaling_counts.py"
        ) from error


def store(new: Counts, path: Path = STORED) -> None:
    """Adds a row, or replaces the one of the same variant and phase."""
    rows = read_counts(path) if path.exists() else []
    others = [row for row in rows if (row.variant, row.phase) != (new.variant, new.phase)]
    order = list(PHASES)
    rows = sorted([*others, new], key=lambda row: (row.variant, order.index(row.phase)))
    lines = ",\n".join(f"  {json.dumps(dataclasses.asdict(row))}" for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main(variants: Iterable[str], phases: Iterable[str]) -> None:
    """Counts every phase of every variant and stores the rows."""
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = tpu_mesh(TOPOLOGY) if has_tpu_compiler() else make_mesh()
    for variant in variants:
        for phase in phases:
            started = time.perf_counter()
            counts = count(variant, phase, BATCH[variant], mesh)
            store(counts)
            print(f"{counts}, compiled in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="default: all"
    )
    parser.add_argument(
        "--phases", nargs="+", choices=tuple(PHASES), default=tuple(PHASES), help="default: both"
    )
    options = parser.parse_args()
    main(options.variants, options.phases)
