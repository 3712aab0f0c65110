"""Two real processes train like one process with two devices, on features and on pictures."""

import json
import os
import socket
import subprocess
import sys

import pytest

CONFIG = """
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.models.variants import VARIANTS, Variant

VARIANTS["lite0"] = Variant(0.25, 0.3, 32, 0.2, lite=True)  # smaller: "tiny" of conftest.py


def get_config():
    return Config(
        data=Data(csv={csv!r}, images={images!r}, batch_size=8, eval_batch_size=8),
        model=Model(variant="lite0", weights="", image_size=32),
        evaluation=Evaluation(every="2 steps"),
        phases=[
            Phase("head", "2 steps", [Group("head/.*", 1e-2)], cached_views=2),
            Phase("finetune", "2 steps", [Group({pattern!r}, 1e-3)], batch_norm="train"),
        ],
    )
"""


# From the middle of stage 6 on: a block that drops its path, and every kind of layer.
PATTERN = "(head|backbone/(top|stage7|stage6/block2))/.*"


def start(config, workdir, cache, devices, *options, **environment):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    train = [sys.executable, "-m", "mlcls_jax.train"]
    return subprocess.Popen(
        [*train, "--config", config, "--workdir", workdir, *options],
        env={**os.environ, "XLA_FLAGS": flags, "MLCLS_JAX_CACHE": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    """The outputs; a failed process shows what it said."""
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def slurm_task(task, tasks, port):
    """The environment in which srun starts a task on this machine."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(tasks),
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task),
        "JAX_COORDINATOR_PORT": str(port),
    }


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_like_one_with_two_devices(photos, tmp_path):
    config, cache = tmp_path / "config.py", tmp_path / "cache"
    config.write_text(
        CONFIG.format(csv=str(photos / "labels.csv"), images=str(photos), pattern=PATTERN)
    )
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(config, one, cache, 2))
    assert any((cache / "compiled").iterdir())  # the compilation cache is on

    # One is told who there is, the other one finds it out, as every task of a SLURM step does.
    port = free_port()
    told = ("--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", "0")
    first, second = finish(
        start(config, two, cache, 1, *told),
        start(config, two, cache, 1, "--cluster", **slurm_task(1, 2, port)),
    )
    assert "Done. Everything is in" in first and "2 processes" in first
    assert "Done." not in second and "mAP" not in second

    assert [record["step"] for record in records(two)] == [2, 4]
    for ours, theirs in zip(records(two), records(one), strict=True):
        assert ours["phase"] == theirs["phase"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        for name, value in theirs["val"].items():
            assert ours["val"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
