"""The machines of scaling_model.py, and published throughputs to compare it with."""

from dataclasses import dataclass


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


# NVIDIA's data sheets of the A100 80GB SXM, and of the DGX A100 for the cores. Network: the part of
# NVLink's 300 GB/s per direction that NCCL reaches, github.com/NVIDIA/nccl-tests/issues/149.
A100 = System("8 x A100", 8, 1, 128, 312e12, 2039e9, 230e9, 3e-6)
# NVIDIA's data sheets of the H100 SXM (without sparsity), and of the DGX H100 for the cores.
# Network: the same part of NVLink's 450 GB/s per direction as on the A100.
H100 = System("8 x H100", 8, 1, 112, 989e12, 3352e9, 450e9 * 230 / 300, 3e-6)
# arXiv:2304.01433 and Google's page of the TPU v4. Network: a ring uses two of a chip's six links,
# with 50 GB/s each per direction. A v4-32 has 16 chips; four share a host.
V4 = System("TPU v4-32", 16, 4, 120, 275e12, 1228e9, 100e9, 1e-6)
# Google's page of the TPU v5e: four links of 400 Gbit/s, of which a ring uses two. A slice of 256
# chips has 64 hosts.
V5E = System("TPU v5e", 256, 64, 112, 197e12, 819e9, 100e9, 1e-6)
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
