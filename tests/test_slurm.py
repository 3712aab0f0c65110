"""The batch script in the docs queues a job again exactly if a signal has left work."""

import os
import re
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs" / "distributed.md"


def batch_script() -> str:
    (script,) = re.findall(r"```text\n(#!/bin/bash\n#SBATCH .*?)```", DOCS.read_text("utf-8"), re.S)
    return script


@pytest.mark.parametrize(
    ("code", "requeued"), [(138, "requeue 7\n"), (0, ""), (2, ""), (1, ""), (143, "")]
)
def test_slurm_queues_again_what_sigusr1_has_stopped(tmp_path, code, requeued):
    log = tmp_path / "log"
    for name, body in (("srun", f"exit {code}"), ("scontrol", f'echo "$@" >> {log}')):
        stub = tmp_path / name
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(batch_script())
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    assert (log.read_text() if log.exists() else "") == requeued
