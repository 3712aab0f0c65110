"""Two real processes train like one process with two devices."""

import json
import os
import socket
import subprocess
import sys

import pytest

CONFIG = """
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase


def get_config():
    return Config(
        data=Data(csv={csv!r}, images={images!r}, batch_size=8, eval_batch_size=8),
        model=Model(variant="lite0", weights="", image_size=32),
        evaluation=Evaluation(every="2 steps"),
        phases=[
            Phase("head", "2 steps", [Group("head/.*", 1e-2)]),
            Phase("tail", "2 steps", [Group("(head|backbone/top)/.*", 1e-3)], batch_norm="train"),
        ],
    )
"""


def start(config, workdir, cache, devices, *options):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    train = [sys.executable, "-m", "mlcls_jax.train"]
    return subprocess.Popen(
        [*train, "--config", config, "--workdir", workdir, *options],
        env={**os.environ, "XLA_FLAGS": flags, "MLCLS_JAX_CACHE": str(cache)},
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


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_like_one_with_two_devices(photos, tmp_path):
    config, cache = tmp_path / "config.py", tmp_path / "cache"
    config.write_text(CONFIG.format(csv=str(photos / "labels.csv"), images=str(photos)))
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(config, one, cache, 2))
    assert any((cache / "compiled").iterdir())  # the compilation cache is on

    join = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--process")
    first, second = finish(*(start(config, two, cache, 1, *join, str(i)) for i in range(2)))
    assert "Done. Everything is in" in first and "2 processes" in first
    assert "Done." not in second and "mAP" not in second

    assert [record["step"] for record in records(two)] == [2, 4]
    for ours, theirs in zip(records(two), records(one), strict=True):
        assert ours["phase"] == theirs["phase"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        for name, value in theirs["val"].items():
            assert ours["val"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
