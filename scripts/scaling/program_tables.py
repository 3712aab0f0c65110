"""Prints what the compiled training step needs, as tables in Markdown; nothing is run.

    python scripts/scaling/program_tables.py --table frozen                    # for b0
    python scripts/scaling/program_tables.py --table memory --variants b0 b4
    python scripts/scaling/program_tables.py --table collectives --variants b0 b1
    python scripts/scaling/program_tables.py --table heads --variants b0 b5 lite0 v2s

With libtpu (see tpu_compiler.py) the programs are those of a TPU v4 in bfloat16. Without it, or
with --compiler cpu, they are those of this CPU. A CPU program fuses less and computes bfloat16 in
float32, so its memory says nothing about an accelerator. The first line names the compiler.
"""

import argparse
import dataclasses
from collections.abc import Iterator

import jax
from scaling_counts import BATCH, CLASSES, QUICK
from scaling_counts import PHASES as COUNTED
from tpu_compiler import has_tpu_compiler, tpu_mesh

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.config.schema import image_size
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.variants import VARIANTS, scaled_stages
from mlcls_jax.step.groups import group_table
from mlcls_jax.step.network import network_spec, variables_shape
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.step.programs import Program, forward_program, step_program, step_spec
from mlcls_jax.system import hlo
from mlcls_jax.system.devices import make_mesh

PRETRAINED = PretrainedConfig(KERAS, IMAGENET)
DEVICES, ROWS = 8, 8
KNOWN = list(BATCH)
TABLES = ("frozen", "memory", "collectives", "heads")
MEMORIES = (16, 24, 40, 80)  # device memories in GB
FULL = COUNTED["full"]
PHASES = (
    COUNTED["head"],
    FULL,
    Phase("statistics", "1000 steps", FULL.groups, batch_norm="train"),
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings that all rows of a table share.

    Attributes:
        mesh: devices to compile for.
        size: image size in pixels; 0 is the published size.
    """

    mesh: jax.sharding.Mesh
    size: int

    def config(self, variant: str, phase: Phase, rows: int, remat: bool = False) -> Config:
        """Returns the config of one phase, with `rows` images per device."""
        model = Model(variant, image_size=self.size, compute_dtype="bfloat16", remat=remat)
        return Config(data=Data(batch_size=rows * self.mesh.size), model=model, phases=[phase])

    def step(self, config: Config) -> Program:
        """Returns the step program of the config's only phase."""
        (phase_plan,) = plan_phases(
            config.phases,
            images=1,
            batch_size=config.data.batch_size,
            every=config.evaluation.every,
        )
        return step_program(step_spec(config, CLASSES), PRETRAINED, phase_plan, self.mesh)

    def compile(self, program: Program) -> jax.stages.Compiled:
        """Compiles a program, with less effort if the compiler supports that."""
        on_tpu = self.mesh.devices.flat[0].platform == "tpu"
        return program.lower().compile(QUICK if on_tpu else None)


def frozen_phase(stages: int, total: int) -> Phase:
    """Returns a phase with the first stages frozen.

    Args:
        stages: number of frozen stages; more than `total` freezes everything but the head.
        total: number of stages of the network.
    """
    if stages == 0:
        return FULL
    if stages > total:
        return PHASES[0]
    late = "".join(str(stage) for stage in range(stages + 1, total + 1))
    backbone = f"(stage[{late}]|top)" if late else "top"
    return Phase("late", "1000 steps", [Group(f"head/.*|backbone/{backbone}/.*", 1e-3)])


def frozen_rows(setting: Setting, variant: str, rows: int) -> Iterator[list[str]]:
    """Yields a row per number of frozen stages: work, share of forward, parameters, memory."""
    config = setting.config(variant, FULL, rows)
    forward = forward_program(
        network_spec(config.model, CLASSES), PRETRAINED, rows * setting.mesh.size, setting.mesh
    )
    base = hlo.flops(setting.compile(forward)) / rows
    yield ["(forward pass)", f"{base / 1e9:.3f}", "1.000", "", ""]
    total = len(scaled_stages(VARIANTS[variant]))
    for stages in range(total + 2):
        phase = frozen_phase(stages, total)
        program = setting.step(setting.config(variant, phase, rows))
        executable = setting.compile(program)
        work = hlo.flops(executable) / rows
        params = sum(
            row.parameters
            for row in group_table(program.arguments[0].params, phase)
            if row.learning_rate
        )
        yield [
            "all but the head" if stages > total else str(stages),
            f"{work / 1e9:.3f}",
            f"{work / base:.3f}",
            f"{params:,}",
            f"{hlo.memory(executable).temporary / rows / 1e6:.1f}",
        ]


def memory_rows(setting: Setting, variants: list[str], rows: int) -> Iterator[list[str]]:
    """Yields a row per variant and remat: batch, memory per image, fixed memory, what fits."""
    for variant in variants:
        batch = rows or BATCH.get(variant, ROWS)
        for remat in (False, True):
            program = setting.step(setting.config(variant, FULL, batch, remat))
            memory = hlo.memory(setting.compile(program))
            each = memory.temporary / batch
            fixed = memory.peak - memory.temporary
            yield [
                f"{variant}, {image_size(setting.config(variant, FULL, batch).model)} px",
                "yes" if remat else "no",
                str(batch),
                f"{each / 1e6:.1f}",
                f"{fixed / 1e6:.0f}",
                *(str(max(0, int((limit * 1e9 - fixed) // each))) for limit in MEMORIES),
            ]


def collective_rows(setting: Setting, variants: list[str], rows: int) -> Iterator[list[str]]:
    """Yields a row per variant and phase: kinds, count and bytes of all collectives."""
    for variant in variants:
        for phase in PHASES:
            program = setting.step(setting.config(variant, phase, rows))
            found = hlo.collectives(setting.compile(program))
            kinds = ", ".join(sorted({collective.kind for collective in found}))
            total = sum(collective.bytes for collective in found)
            yield [variant, phase.name, kinds, str(len(found)), f"{total:,}"]


def head_rows(mesh: jax.sharding.Mesh, variants: list[str]) -> Iterator[list[str]]:
    """Yields a row per variant and head: parameters of the network and of the head."""
    for variant in variants:
        for head in ("gap", "mldecoder"):
            config = Config(model=Model(variant, head=head))
            params = variables_shape(network_spec(config.model, CLASSES), mesh)["params"]
            counts = (
                sum(leaf.size for leaf in jax.tree.leaves(tree))
                for tree in (params, params["head"])
            )
            yield [variant, head, *(f"{count:,}" for count in counts)]


def print_rows(header: list[str], rows: Iterator[list[str]]) -> None:
    """Prints the header, then each row as soon as it is known."""
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def parse() -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--table", choices=TABLES, required=True, help="table to print")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, help="default: b0 to b7; for frozen: b0"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=0,
        help="images per device; default: 8, for memory the batches of scaling_counts.py",
    )
    parser.add_argument(
        "--size", type=int, default=0, help="image size in pixels; default: the published size"
    )
    parser.add_argument(
        "--compiler", choices=("tpu", "cpu"), default="", help="default: tpu if libtpu is installed"
    )
    return parser.parse_args()


def main() -> None:
    """Prints the requested table."""
    options = parse()
    devices = DEVICES if options.table == "collectives" else 1
    compiler = options.compiler or ("tpu" if has_tpu_compiler() else "cpu")
    if compiler == "cpu":
        jax.config.update("jax_num_cpu_devices", devices)
    mesh = tpu_mesh("v4:2x2x2", devices) if compiler == "tpu" else make_mesh(devices)
    setting = Setting(mesh, options.size)
    variants = options.variants or (["b0"] if options.table == "frozen" else KNOWN)
    kind = mesh.devices.flat[0].device_kind
    print(f"Compiler: {kind}, jax {jax.__version__}.\n")
    if options.table == "frozen":
        header = ["frozen stages", "GFLOP/image", "of forward", "trained parameters", "MB/image"]
        for variant in variants:
            print_rows(header, frozen_rows(setting, variant, options.rows or ROWS))
    elif options.table == "memory":
        header = ["network", "remat", "batch", "MB/image", "fixed MB"]
        header += [f"fit {size} GB" for size in MEMORIES]
        print_rows(header, memory_rows(setting, variants, options.rows))
    elif options.table == "heads":
        print_rows(["network", "head", "parameters", "of the head"], head_rows(mesh, variants))
    else:
        header = ["network", "phase", "kind", "count", "bytes"]
        print_rows(header, collective_rows(setting, variants, options.rows or ROWS))


if __name__ == "__main__":
    main()
