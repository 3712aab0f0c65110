"""W&B offline, MLflow in a database file and trackio: what a run leaves there, and continued."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from mlcls_jax.config import Log
from mlcls_jax.run.loggers.background import BackgroundLogger
from mlcls_jax.run.loggers.choice import loggers_of
from mlcls_jax.run.loggers.logger import FINISHED, STOPPED, LoggedImage

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore"),  # of the packages and of what they leave open
]
BLOCK, HEADER = 32768, 7  # of the files of W&B, which are those of LevelDB's log


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def log(name: str, workdir: Path, first: int, last: int, state: str) -> None:
    """Logs the steps of a process that goes on after `first`, or repeats the step before it."""
    (logger,) = loggers_of(Log(to=name, project="cats"), workdir, first, 1)
    assert isinstance(logger, BackgroundLogger)
    (workdir / "report.html").write_text("<p>report</p>")
    logger.config({"seed": 0, "phases": [{"duration": "2 epochs"}]})
    for step in range(max(first, 1), last + 1):
        logger.scalars(step, {"val/mAP": step / 10, "val/precision@recall=0.9": 0.5})
    logger.images(last, "missed", [LoggedImage("ü ?.jpg", "cat 0.1; labels: cat", jpeg())])
    logger.artifacts([workdir / "report.html"])
    logger.end(state)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """Returns a workdir of a fold; the loggers write next to it."""
    (tmp_path / "mine" / "fold-1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path / "mine" / "fold-1"


def stopped_and_continued(name: str, workdir: Path, capfd) -> None:
    log(name, workdir, 0, 2, STOPPED)
    log(name, workdir, 2, 4, FINISHED)
    assert "warning" not in capfd.readouterr().out


def records_of(file: Path) -> list:
    """Returns the records of a file of W&B."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, records = file.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_wandb(workdir, capfd):
    pytest.importorskip("wandb")
    stopped_and_continued("wandb", workdir, capfd)
    files = sorted(Path("wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one run
    steps, ends = [], []
    for file in files:
        records = records_of(file)
        (run,) = (record.run for record in records if record.HasField("run"))
        assert (run.project, run.display_name, run.run_group) == ("cats", "mine-fold-1", "mine")
        ends += [record.exit.exit_code for record in records if record.HasField("exit")]
        for record in records:
            items = {item.key: item.value_json for item in record.history.item}
            nested = {"/".join(i.nested_key): i.value_json for i in record.history.item}
            steps += [value for key, value in (nested | items).items() if key == "val/mAP"]
        assert any(record.HasField("artifact") for record in records)
        (image,) = (file.parent / "files/media/images").glob("missed*.png")
        assert Image.open(image).size == (8, 8)
    assert steps == ["0.1", "0.2", "0.3", "0.4"] and ends == [255, 0]


def test_mlflow(workdir, capfd):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    stopped_and_continued("mlflow", workdir, capfd)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("cats")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine-fold-1", "FINISHED")
    assert run.data.params == {"seed": "0", "phases.0.duration": "2 epochs"}
    assert run.data.tags["group"] == "mine" and run.data.tags["mlflow.user"]
    history = client.get_metric_history(run.info.run_id, "val/mAP")
    assert [(metric.step, metric.value) for metric in history] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
    ]
    assert run.data.metrics["val/precision_recall_0.9"] == 0.5
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
        "missed",
        "report.html",
    ]


def test_a_dead_server_of_mlflow_is_one_warning(workdir, monkeypatch, capfd):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log("mlflow", workdir, 0, 2, FINISHED)
    text = " ".join(capfd.readouterr().out.split())
    assert text.count("warning: log.to=mlflow: MlflowException: API request to http") == 1


def test_trackio(workdir, capfd):
    """It reads TRACKIO_DIR when it is imported, so a process of its own looks at the files."""
    pytest.importorskip("trackio")
    for first, last, state in ((0, 2, STOPPED), (2, 4, FINISHED)):
        code = (
            "from pathlib import Path; from test_real_loggers import log; "
            f"log('trackio', Path({str(workdir)!r}), {first}, {last}, {state!r})"
        )
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert done.returncode == 0 and "warning" not in done.stdout, done.stdout + done.stderr
    code = (
        "from trackio.sqlite_storage import SQLiteStorage as S; (run,) = S.get_runs('cats'); "
        "print([(one['step'], one['val/mAP']) for one in S.get_logs('cats', run) "
        "if 'val/mAP' in one]); print(run)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    logged, name = done.stdout.strip().splitlines()
    assert logged == "[(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]"
    assert name.startswith("mine-fold-1-")


def test_comet(workdir, capfd, monkeypatch):
    """Each process of an offline run leaves an archive, with the key of the first one."""
    pytest.importorskip("comet_ml")
    folder = workdir.parents[1] / "comet"
    folder.mkdir()
    for name, value in (("START_ONLINE", "0"), ("LOGGING_CONSOLE", "ERROR")):
        monkeypatch.setenv(f"COMET_{name}", value)
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(folder))
    stopped_and_continued("comet", workdir, capfd)
    key = json.loads((workdir / "loggers.json").read_text())["comet"]["key"]
    archives = sorted(folder.glob("*.zip"), key=os.path.getmtime)
    assert len(archives) == 2 and all(file.name.startswith(key) for file in archives)
    logged, others, assets = [], {}, set()
    for file in archives:
        with zipfile.ZipFile(file) as archive:
            about = json.loads(archive.read("experiment.json"))
            lines = archive.read("messages.json").splitlines()
        assert about["project_name"] == "cats"
        messages = [(one["type"], one["payload"]) for one in map(json.loads, lines)]
        for kind, payload in messages:
            metric = payload.get("metric") or {}
            if metric.get("metricName") == "val/mAP":
                logged.append((metric["step"], metric["metricValue"]))
            if kind == "log_other":
                others[payload["key"]] = payload["value"]
            elif kind == "file_upload":
                about_file = payload["additional_params"]
                assets.add(about_file.get("fileName") or about_file.get("figName"))
    assert logged == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert others["ended"] == FINISHED and others["Name"] == "mine-fold-1"
    assert {"report.html", "missed/ü ?.jpg"} <= assets


def test_comet_without_a_key_is_one_warning(workdir, capfd, monkeypatch):
    pytest.importorskip("comet_ml")
    monkeypatch.setenv("HOME", str(workdir))
    for name in ("COMET_API_KEY", "COMET_START_ONLINE"):
        monkeypatch.delenv(name, raising=False)
    log("comet", workdir, 0, 1, FINISHED)
    assert "log.to=comet: ValueError: there is no API key; set COMET_API" in capfd.readouterr().out
