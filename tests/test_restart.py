"""The script in the docs that starts all processes of a run again when one of them dies."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs" / "distributed.md"
CLOCK = ("images_per_second", "seconds", "timing")
CONFIG = """
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.models.variants import VARIANTS, Variant

VARIANTS["lite0"] = Variant(0.25, 0.3, 32, 0.2, lite=True)  # one narrow block per stage


def get_config():
    return Config(
        data=Data(csv={csv!r}, images={images!r}, batch_size=8, eval_batch_size=8),
        model=Model(variant="lite0", weights="", image_size=32),
        evaluation=Evaluation(every="2 steps"),
        phases=[Phase("head", "12 steps", [Group("head/.*", 1e-2)])],
    )
"""


def start(folder: Path, body: str, *options: str) -> subprocess.Popen:
    """Starts the script with a command `mlcls-jax` of this body."""
    (script,) = re.findall(r"```text\n(#!/bin/bash\n# restart.sh .*?)```", DOCS.read_text(), re.S)
    (folder / "restart.sh").write_text(script)
    stub = folder / "mlcls-jax"
    stub.write_text(f"#!/bin/bash\n{body}\n")
    stub.chmod(0o755)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "PORT": port}
    command = ["bash", folder / "restart.sh", *options]
    return subprocess.Popen(command, env=os.environ | environment, cwd=folder)


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
@pytest.mark.parametrize(
    ("codes", "expected"), [("137 0", [0, 4]), ("2 0", [2, 2]), ("143 0", [143, 2]), ("0", [0, 2])]
)
def test_all_are_started_again_unless_the_exit_code_says_no(tmp_path, codes, expected):
    body = f"""
    codes=({codes})
    echo x >> {tmp_path}/calls.${{@: -1}}
    [ ${{@: -1}} = 0 ] && exit 0
    exit ${{codes[$(($(wc -l < {tmp_path}/calls.1) - 1))]}}"""
    code = start(tmp_path, body).wait(60)
    calls = sum(path.read_text().count("x") for path in tmp_path.glob("calls.*"))
    assert [code, calls] == expected


@pytest.mark.slow
def test_a_run_with_a_killed_process_ends_like_an_undisturbed_one(photos, tmp_path):
    config = CONFIG.format(csv=str(photos / "labels.csv"), images=str(photos))
    (tmp_path / "config.py").write_text(config)
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    root = Path(__file__).parents[1]
    body = f"""
    export XLA_FLAGS='{flags}' MLCLS_JAX_CACHE={tmp_path}/cache PYTHONPATH={root}
    echo $$ > {tmp_path}/pid.${{@: -1}}
    exec {sys.executable} -m mlcls_jax "$@" """
    records = []
    for name in ("undisturbed", "killed"):
        metrics = tmp_path / name / "metrics.jsonl"
        script = start(tmp_path, body, "--config", "config.py", "--workdir", name)
        if name == "killed":
            while not list((tmp_path / name).glob("checkpoints/2")):
                assert script.poll() is None
                time.sleep(0.02)
            os.kill(int((tmp_path / "pid.1").read_text()), 9)
        assert script.wait(600) == 0
        lines = map(json.loads, metrics.read_text().splitlines())
        records.append([{k: v for k, v in line.items() if k not in CLOCK} for line in lines])
    assert len(records[0]) == 6
    assert records[0] == records[1]
