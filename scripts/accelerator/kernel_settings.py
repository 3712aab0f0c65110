"""What part_kernels.py measures: operations, tables of kernels, flags, and how long."""

from dataclasses import dataclass

from part_networks import TINY

from mlcls_jax.models import normalized_depthwise
from mlcls_jax.models.ops import depthwise, pallas_depthwise

NORMALIZED = "normalized_depthwise"
PER_LAYER = "fastest per layer"  # the table of part_kernels.best_table
OPERATIONS = {
    "depthwise": depthwise.FORWARD,
    "depthwise_input_gradient": depthwise.INPUT_GRADIENT,
    "depthwise_kernel_gradient": depthwise.KERNEL_GRADIENT,
    NORMALIZED: normalized_depthwise.IMPLEMENTATIONS,
}
PALLAS = {
    "depthwise": pallas_depthwise.forward,
    "depthwise_input_gradient": pallas_depthwise.input_gradient,
    "depthwise_kernel_gradient": pallas_depthwise.kernel_gradient,
    NORMALIZED: normalized_depthwise.fused,
}
CONVOLUTIONS = [name for name in OPERATIONS if name != NORMALIZED]
TABLES = {
    "shipped": {},
    "native": {name: [{"use": "native"}] for name in CONVOLUTIONS},
    "shifted sum": {name: [{"use": "shifted_sum"}] for name in CONVOLUTIONS},
    "pallas": {name: [{"use": "pallas"}] for name in CONVOLUTIONS},
    "pallas, normalised": {NORMALIZED: [{"use": "pallas"}]},
    "one reduction": {"batch_norm_moments": [{"use": "one_reduction"}]},
}
FLAGS = (
    "",
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "--xla_gpu_autotune_level=0",
    "--xla_gpu_autotune_level=4",
    "--xla_gpu_enable_command_buffer=",
    "--xla_gpu_enable_triton_gemm=false",
)


@dataclass(frozen=True)
class Setting:
    """What is measured, and how long.

    Attributes:
        networks: (name, image size, batch) of the networks whose layers are timed.
        step: (name, image size) of the network whose steps are timed.
        batch, for_seconds: images of a step or an evaluation, and how long it is timed.
        dtype: of the layers.
        tables, flags: those that training steps are timed with.
        evaluations: tables that an evaluation is timed with.
        interpret: whether XLA runs the Pallas kernels itself; None leaves them out.
        several: applications in one program, so that the time to start one is not measured.
        seconds, repeats: of a layer's measurement.
    """

    networks: tuple[tuple[str, int, int], ...] = (("b0", 224, 128), ("b5", 456, 16))
    step: tuple[str, str] = ("b0", "224")
    batch: int = 256
    for_seconds: float = 1.0
    dtype: str = "bfloat16"
    tables: tuple[str, ...] = ("shipped", "shifted sum", "pallas", "one reduction")
    evaluations: tuple[str, ...] = ("shipped", "pallas", "pallas, normalised")
    flags: tuple[str, ...] = FLAGS
    interpret: bool | None = False
    several: int = 8
    seconds: float = 0.01
    repeats: int = 3


REHEARSAL = Setting(
    networks=((TINY, 32, 2),),
    step=(TINY, "32"),
    batch=2,
    for_seconds=0.01,
    tables=("shipped", "shifted sum"),
    evaluations=("shipped",),
    flags=FLAGS[:1],
    interpret=True,
    several=1,
    seconds=0.0,
    repeats=1,
)
ON_CPU = Setting(
    networks=(("b0", 224, 4),),  # XLA's own kernel gradients take seconds there
    batch=16,
    for_seconds=4.0,
    dtype="float32",
    tables=("shipped", "native", "shifted sum", "one reduction"),
    evaluations=("shipped", "native"),
    flags=(),
    interpret=None,
    several=1,
)
