"""Several processes on one machine train like one with as many devices, and end together."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlcls_jax.run.checkpoints import saved_steps

CONFIG = """
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.models.variants import VARIANTS, Variant

VARIANTS["lite0"] = Variant(0.25, 0.3, 32, 0.2, lite=True)  # as small as "tiny" in conftest.py


def get_config():
    return Config(
        data=Data(
            csv={csv!r},
            images={images!r},
            batch_size=8,
            eval_batch_size=8,
            oversample="balanced",
            oversample_threshold=0.9,
        ),
        model=Model(variant="lite0", weights="", image_size=32),
        evaluation=Evaluation(every="2 steps"),
        phases=[
            Phase("head", {head!r}, [Group("head/.*", 1e-2)], cached_views=2),
            Phase("finetune", {finetune!r}, [Group({pattern!r}, 1e-3)], batch_norm="train"),
        ],
    )
"""


# From the middle of stage 6 on, with a block that has stochastic depth and all kinds of layers.
PATTERN = "(head|backbone/(top|stage7|stage6/block2))/.*"


def start(config, workdir, cache, devices, *options, **environment):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    train = [sys.executable, "-m", "mlcls_jax.train"]
    return subprocess.Popen(
        [*train, "--config", config, "--workdir", workdir, *options],
        env={**os.environ, "XLA_FLAGS": flags, "MLCLS_JAX_CACHE": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outputs_of(*processes, timeout=600):
    return [process.communicate(timeout=timeout)[0] for process in processes]


def errors(output):
    return [line for line in output.splitlines() if line.startswith("error:")]


def finish(*processes, code=0):
    """Returns the outputs of the processes, and fails with that of one with another exit code."""
    outputs = outputs_of(*processes)
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output
    return outputs


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def write_config(path, photos, head="2 steps", finetune="2 steps"):
    """Writes a config for a folder with images and labels.csv, with the durations of the phases."""
    data = {"csv": str(photos / "labels.csv"), "images": str(photos)}
    path.write_text(CONFIG.format(**data, pattern=PATTERN, head=head, finetune=finetune))


def process_options(process, processes, port):
    """Returns the options of one of several processes."""
    return (
        *("--coordinator", f"127.0.0.1:{port}"),
        *("--processes", str(processes), "--process", str(process)),
    )


def slurm_task(task, tasks, port):
    """Returns the environment in which srun starts a task on this machine."""
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
@pytest.mark.parametrize(
    "loader", ["threads", pytest.param("tf_data", marks=pytest.mark.reference)]
)
def test_two_processes_train_like_one_with_two_devices(photos, tmp_path, loader):
    """One process gets SIGTERM in between, like a machine that is about to be preempted."""
    config, cache = tmp_path / "config.py", tmp_path / "cache"
    write_config(config, photos, finetune="6 steps")
    one, two = tmp_path / "one", tmp_path / "two"
    chosen = f"--config.data.loader={loader}"
    finish(start(config, one, cache, 2))
    assert any((cache / "compiled").iterdir())  # the compilation cache is on

    # One process gets options, and the other detects the cluster, as in a SLURM step.
    def both():
        port = free_port()
        return (
            start(config, two, cache, 1, chosen, *process_options(0, 2, port)),
            start(config, two, cache, 1, chosen, "--cluster", **slurm_task(1, 2, port)),
        )

    first, second = both()
    while not saved_steps(two):
        assert second.poll() is None
        time.sleep(0.05)
    second.terminate()
    assert "run the same command to continue" in finish(first, second, code=143)[0]
    assert max(saved_steps(two)) < 8

    first, second = finish(*both())
    assert "Continuing at step" in first
    assert "Done. Everything is in" in first and "2 processes" in first
    assert "Done." not in second and "mAP" not in second

    assert [record["step"] for record in records(two)] == [2, 4, 6, 8]
    for ours, theirs in zip(records(two), records(one), strict=True):
        assert ours["phase"] == theirs["phase"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        for name, value in theirs["val"].items():
            assert ours["val"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_processes_with_different_configs_are_refused_on_both(photos, tmp_path):
    config, port = tmp_path / "config.py", free_port()
    write_config(config, photos)
    both = [
        start(
            config,
            tmp_path / "run",
            tmp_path / "cache",
            1,
            *process_options(i, 2, port),
            f"--config.seed={i}",
        )
        for i in range(2)
    ]
    for process, output in zip(both, outputs_of(*both), strict=True):
        assert process.returncode in (1, 2), output  # 1: the other process was faster
        [line] = errors(output)
        assert "differ (seed: 0 in process 0, 1 in process 1)" in line
    assert not (tmp_path / "run").exists()


def test_processes_with_different_labels_are_refused_on_both(photos, tmp_path):
    port, both = free_port(), []
    for i in range(2):
        folder = tmp_path / f"machine{i}"
        shutil.copytree(photos, folder)
        write_config(folder / "config.py", folder)
        options = process_options(i, 2, port)
        if i:
            text = (folder / "labels.csv").read_text()
            (folder / "labels.csv").write_text(text.replace(",1,", ",0,", 1))
        both.append(start(folder / "config.py", tmp_path / "run", tmp_path / "cache", 1, *options))
    for process, output in zip(both, outputs_of(*both), strict=True):
        assert process.returncode in (1, 2), output
        [line] = errors(output)
        assert "differ" in line and "labels" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_another_number_of_processes_continues(
    photos, tmp_path
):
    """Four processes with their own folders, and with a bad image that only some of them read."""
    cache, run, port = tmp_path / "cache", tmp_path / "run", free_port()
    processes, skip = [], ("--config.data.on_bad_image=skip", "--config.data.max_bad_fraction=0.1")
    for i in range(4):
        folder = tmp_path / f"machine{i}"
        shutil.copytree(photos, folder)
        (folder / "07.png").write_bytes(b"")
        write_config(folder / "config.py", folder, head="12 steps", finetune="0 steps")
        options = (*skip, "--config.distributed.timeout=30", *process_options(i, 4, port))
        processes.append(start(folder / "config.py", run, cache, 1, *options))
    until = time.monotonic() + 300
    while not saved_steps(run):
        assert time.monotonic() < until and processes[3].poll() is None
        time.sleep(0.05)
    *others, killed = processes
    killed.kill()
    for process, output in zip(others, outputs_of(*others, timeout=200), strict=True):
        assert process.returncode == 1, output
        [line] = errors(output)
        lost = "another process of the run ended without a message"  # in a collective
        assert lost in line or "process 3 of 4 has been silent" in line  # or outside of one
        assert "continue from the last checkpoint" in line
    killed.communicate()

    # One process with two devices, and with another time-out.
    config = tmp_path / "machine0" / "config.py"
    [output] = finish(start(config, run, cache, 2, *skip))
    assert "Continuing at step" in output
    assert [record["step"] for record in records(run)] == list(range(2, 13, 2))
    assert "could not be read and was skipped" in output
    with open(run / "bad_images.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["path"]).name for row in rows} == {"07.png"} and "empty" in rows[0]["reason"]
    assert not list(run.glob("bad_images_*"))
