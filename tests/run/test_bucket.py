"""A run with everything in a bucket, on a server of S3's protocol on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

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
SECONDS = 240


@pytest.fixture(scope="module")
def s3(photos, tmp_path_factory):
    """Returns the environment of a process that uses the server, whose bucket holds the photos."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
        "MLCLS_JAX_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + SECONDS
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end and server.poll() is None
            time.sleep(0.1)
        ask(environment, f"files.mkdir('s3://bucket'); files.put({str(photos)!r} + '/', ", PUT)
        yield environment
    finally:
        server.kill()
        server.wait()


PUT = "'s3://bucket/photos/', recursive=True)"


def ask(environment, *code):
    """Returns what fsspec answers in a process of its own, as this one's has other settings."""
    script = f"import fsspec, json; files = fsspec.filesystem('s3'); {''.join(code)}"
    run = [sys.executable, "-c", script]
    return subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout


def read(environment, name):
    return ask(environment, f"print(files.cat_file('s3://bucket/{name}').decode(), end='')")


def names(environment, folder):
    return json.loads(ask(environment, f"print(json.dumps(files.find('s3://bucket/{folder}')))"))


def command(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "mlcls_jax", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )


def finish(environment, *arguments):
    done = command(environment, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.reference
@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_and_goes_on(s3, photos, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    config = ("train", "--config", tmp_path / "config.py")
    csv = photos / "labels.csv"
    finish(s3, *config, "--csv", csv, "--images", photos, "--workdir", tmp_path / "local")

    there = ("--csv", "s3://bucket/photos/labels.csv", "--images", "s3://bucket/photos")
    workdir = ("--workdir", "s3://bucket/runs/one")
    arguments = map(str, (*config, *there, *workdir))
    process = subprocess.Popen([sys.executable, "-m", "mlcls_jax", *arguments], env=s3)
    end = time.monotonic() + SECONDS
    while not any(name.endswith("SHA256SUMS") for name in names(s3, "runs/one/checkpoints")):
        assert time.monotonic() < end and process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    output = finish(s3, "train", *workdir)
    assert "exited without releasing the lock; taking over" in output
    assert "Continuing at step" in output and "Everything is in s3://bucket/runs/one" in output
    ours = [json.loads(line) for line in read(s3, "runs/one/metrics.jsonl").splitlines()]
    lines = (tmp_path / "local" / "metrics.jsonl").read_text().splitlines()
    for one, other in zip(ours, map(json.loads, lines), strict=True):
        for key in ("step", "phase", "train_loss", "val"):
            assert one[key] == other[key]
    found = names(s3, "runs/one")
    for name in ("report.html", "config.json", "classes.txt", "splits.csv", "scores.npz"):
        assert f"bucket/runs/one/{name}" in found
    assert any("/tensorboard/events" in name for name in found)
    assert "bucket/runs/one/run.lock" not in found
    assert 1 <= len({name.split("/")[4] for name in found if "/checkpoints/" in name}) <= 3

    output = finish(s3, "evaluate", *workdir)
    assert "Wrote s3://bucket/runs/one/eval_val.json" in output
    evaluated = json.loads(read(s3, "runs/one/eval_val.json"))
    best = max(record["val"]["mAP"] for record in ours)
    assert evaluated["values"]["mAP"] == pytest.approx(best, abs=1e-6)
    assert finish(s3, "predict", *workdir, "s3://bucket/photos/").count(".png: ") == 40
    assert os.listdir(os.path.join(s3["MLCLS_JAX_CACHE"], "runs")) == []  # no copy is left


@pytest.mark.reference
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("train", "--workdir", "s3://missing/run"), "s3://missing/run: no file can be written"),
        (("train", "--workdir", "s3://bucket"), "s3://bucket: name a folder in a bucket"),
        (("evaluate", "--workdir", "s3://bucket/none"), "s3://bucket/none holds no run"),
        (("predict", "--workdir", "s3://bucket/none", "s3://bucket/x.png"), "no such file"),
    ],
)
def test_places_that_cannot_be_used_are_refused_in_one_line(s3, photos, arguments, reason):
    labels = ("--csv", photos / "labels.csv", "--images", photos)
    done = command(s3, *arguments, *(labels if arguments[0] == "train" else ()))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert reason in done.stderr
