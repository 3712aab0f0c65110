"""Compiles training steps for TPUs that are absent, and prints what they need and waste.

    python scripts/scaling/tpu_programs.py --variants b0 b5 --chips v4 v5e v5p v6e
    python scripts/scaling/tpu_programs.py --variants b5 --rows 8 --remat
    python scripts/scaling/tpu_programs.py --print            # the tables of what is stored

Needs libtpu (see tpu_compiler.py). Each program is the step of one chip in bfloat16 in which
everything trains, with the statistics of the batch. It is compiled and read, and not run. Each row
is stored in docs/tpu_programs.json as soon as it is known, and replaces an earlier one of the same
network, chip, batch and remat.
"""

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
from scaling_counts import CLASSES, QUICK
from tpu_compiler import tpu_mesh
from tpu_layouts import Move, moves, padding

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.config.schema import image_size
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.step.programs import step_program, step_spec
from mlcls_jax.system import hlo

STORED = Path(__file__).parents[2] / "docs" / "tpu_programs.json"
TRAIN = Phase("train", "1000 steps", [Group(".*", 1e-3)], batch_norm="train")
MOVES = 8  # largest copies and transposes that are stored
SMALL = 8  # images per chip by default: large batches of large networks take the compiler's memory


@dataclass(frozen=True)
class Chip:
    """Published figures of one chip, from Google's pages of the generations.

    Attributes:
        topology: see `tpu_mesh`.
        flops: peak bfloat16 operations/s.
        bandwidth: of its memory, bytes/s.
        memory: bytes.
    """

    topology: str
    flops: float
    bandwidth: float
    memory: float


CHIPS = {
    "v4": Chip("v4:2x2x1", 275e12, 1228e9, 32 * 2**30),
    "v5e": Chip("v5e:2x2", 197e12, 819e9, 16 * 2**30),
    "v5p": Chip("v5p:2x2x1", 459e12, 2765e9, 95 * 2**30),
    "v6e": Chip("v6e:2x2", 918e12, 1640e9, 32 * 2**30),
}


@dataclass(frozen=True)
class Counts:
    """One step on one chip, by the compiler's analysis.

    Attributes:
        variant: name of the network.
        chip: generation, a key of CHIPS.
        batch: images.
        remat: whether blocks are computed again for their gradients.
        flops, traffic: operations, and bytes of memory read and written.
        peak: bytes of memory needed.
        temporary: part of `peak` that grows with the batch.
        waste: share of the bytes of all results that is padding.
        moves: largest copies and transposes.
        moved: bytes that all copies and transposes write.
        seconds: time to compile.
    """

    variant: str
    chip: str
    batch: int
    remat: bool
    flops: float
    traffic: float
    peak: int
    temporary: int
    waste: float
    moves: list[Move]
    moved: int
    seconds: float

    @property
    def roofline(self) -> float:
        """Seconds of the step at the published peaks."""
        chip = CHIPS[self.chip]
        return max(self.flops / chip.flops, self.traffic / chip.bandwidth)

    @property
    def is_memory_bound(self) -> bool:
        """Whether memory bandwidth decides the roofline."""
        chip = CHIPS[self.chip]
        return self.traffic / chip.bandwidth > self.flops / chip.flops

    @property
    def fits(self) -> int:
        """Images that fit into the chip's memory, extrapolated linearly."""
        fixed = self.peak - self.temporary
        return max(0, int((CHIPS[self.chip].memory - fixed) * self.batch // self.temporary))

    @property
    def key(self) -> tuple:
        """What a later row replaces an earlier one by."""
        return self.variant, list(CHIPS).index(self.chip), self.batch, self.remat


def count(variant: str, chip: str, batch: int, remat: bool) -> Counts:
    """Compiles the step of one network for one chip and counts its work."""
    mesh = tpu_mesh(CHIPS[chip].topology, 1)
    model = Model(variant, compute_dtype="bfloat16", remat=remat)
    config = Config(data=Data(batch_size=batch), model=model, phases=[TRAIN])
    (phase_plan,) = plan_phases(
        config.phases, images=1, batch_size=batch, every=config.evaluation.every
    )
    spec = step_spec(config, CLASSES)
    program = step_program(spec, PretrainedConfig(KERAS, IMAGENET), phase_plan, mesh)
    began = time.perf_counter()
    executable = program.lower().compile(QUICK)
    seconds = time.perf_counter() - began
    text, memory = executable.as_text() or "", hlo.memory(executable)
    found = moves(text)
    return Counts(
        variant=variant,
        chip=chip,
        batch=batch,
        remat=remat,
        flops=hlo.flops(executable),
        traffic=float((executable.cost_analysis() or {})["bytes accessed"]),
        peak=memory.peak,
        temporary=memory.temporary,
        waste=padding(text),
        moves=found[:MOVES],
        moved=sum(move.bytes for move in found),
        seconds=seconds,
    )


def read(path: Path = STORED) -> list[Counts]:
    """Returns the rows that `store` wrote; none without the file."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Counts(**row | {"moves": [Move(**move) for move in row["moves"]]}) for row in rows]


def store(new: Counts, path: Path = STORED) -> None:
    """Adds a row, or replaces the one of the same network, chip, batch and remat."""
    rows = [row for row in read(path) if row.key != new.key]
    rows = sorted([*rows, new], key=lambda row: row.key)
    lines = ",\n".join(f"  {json.dumps(dataclasses.asdict(row))}" for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def table(rows: list[Counts]) -> str:
    """Returns the table of the programs in Markdown."""
    header = ["network", "chip", "batch", "remat", "GFLOP/image", "MB/image", "peak GB", "padding"]
    header += ["fits", "roofline ms", "images/s at most", "limit"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        lines.append(
            [
                f"{row.variant}, {image_size(Model(row.variant))} px",
                row.chip,
                f"{row.batch}",
                "yes" if row.remat else "no",
                f"{row.flops / row.batch / 1e9:.2f}",
                f"{row.traffic / row.batch / 1e6:.0f}",
                f"{row.peak / 1e9:.2f}",
                f"{row.waste:.0%}",
                f"{row.fits}",
                f"{row.roofline * 1e3:.2f}",
                f"{row.batch / row.roofline:,.0f}",
                "memory" if row.is_memory_bound else "arithmetic",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def move_table(rows: list[Counts]) -> str:
    """Returns the table of the largest copies and transposes in Markdown."""
    header = [
        "network",
        "chip",
        "batch",
        "all MB",
        "of traffic",
        "largest MB",
        "operation",
        "array",
    ]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        share = f"{2 * row.moved / row.traffic:.0%}"  # each is read and written
        start = [f"{row.variant}{', remat' if row.remat else ''}", row.chip, f"{row.batch}"]
        for move in list(dict.fromkeys(row.moves))[:2]:
            cells = [f"{row.moved / 1e6:.0f}", share, f"{move.bytes / 1e6:.1f}"]
            lines.append([*start, *cells, move.operation, f"`{move.array}`"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse() -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=("b0",), help="default: b0")
    add("--chips", nargs="+", choices=CHIPS, default=tuple(CHIPS), help="default: all")
    add("--rows", type=int, default=SMALL, help=f"images per chip (default {SMALL})")
    add("--remat", action="store_true", help="blocks are computed again for their gradients")
    add("--print", action="store_true", help="print the tables of what is stored, compile nothing")
    return parser.parse_args()


def main() -> None:
    """Compiles what the options name, or prints the tables of what is stored."""
    options = parse()
    if options.print:
        rows = read()
        print(f"{table(rows)}\n\n{move_table(rows)}")
        return
    jax.config.update("jax_platforms", "cpu")
    for variant in options.variants:
        for chip in options.chips:
            counts = count(variant, chip, options.rows, options.remat)
            store(counts)
            print(f"{table([counts])}\ncompiled in {counts.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
