"""A logger in a thread: one that fails, hangs or is absent costs a warning, never the training."""

import threading

import pytest

from mlcls_jax.run.loggers import background
from mlcls_jax.run.loggers.background import STEP, BackgroundLogger
from mlcls_jax.run.loggers.logger import FINISHED, LoggedImage, LoggedRun, RunLogger


class Recorder(RunLogger):
    """Keeps what it is told."""

    def __init__(self):
        self.told, self.threads = [], set()

    def _tell(self, *told):
        self.told.append(told)
        self.threads.add(threading.current_thread().name)

    def config(self, values):
        self._tell("config", values)

    def scalars(self, step, values):
        self._tell("scalars", step, values)

    def images(self, step, title, images):
        self._tell("images", step, title, *images)

    def artifacts(self, files):
        self._tell("artifacts", *files)

    def flush(self):
        self._tell("flush")

    def end(self, state):
        self._tell("end", state)


def run_of(kept: dict) -> LoggedRun:
    return LoggedRun("project", "mine", "", dict(kept), kept.update)


def said(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_everything_is_passed_on_in_order_from_one_thread(tmp_path):
    recorder, kept = Recorder(), {}
    logger = BackgroundLogger("wandb", lambda run: recorder, run_of(kept))
    image = LoggedImage("a.jpg", "cat 0.9", b"jpeg")
    logger.config({"seed": 0})
    logger.scalars(3, {"val/mAP": 0.5})
    logger.flush()
    logger.images(3, "missed", [image])
    logger.artifacts([tmp_path])
    logger.end(FINISHED)
    assert recorder.told == [
        ("config", {"seed": 0}),
        ("scalars", 3, {"val/mAP": 0.5}),
        ("flush",),
        ("images", 3, "missed", image),
        ("artifacts", tmp_path),
        ("flush",),
        ("end", FINISHED),
    ]
    assert recorder.threads == {"log to wandb"} and kept == {STEP: 3}


def test_steps_that_were_taken_before_are_not_sent_again():
    recorder, kept = Recorder(), {STEP: 3}
    logger = BackgroundLogger("mlflow", lambda run: recorder, run_of(kept))
    logger.config({})
    for step in (2, 3, 4):
        logger.scalars(step, {})
    logger.end(FINISHED)
    assert [told[1] for told in recorder.told if told[0] == "scalars"] == [4]
    assert kept == {STEP: 4}


def test_a_run_with_nothing_left_to_do_starts_no_logger():
    def start(run):
        raise AssertionError

    logger = BackgroundLogger("wandb", start, run_of({}))
    logger.artifacts([])
    logger.end(FINISHED)


@pytest.mark.parametrize("error", [OSError("no route to\nhost"), SystemExit(1), ImportError("x")])
def test_a_server_that_cannot_be_reached_is_one_warning(capsys, error):
    def start(run):
        raise error

    logger = BackgroundLogger("mlflow", start, run_of({}))
    logger.config({})
    logger._thread.join()
    logger.scalars(1, {})
    logger.flush()
    logger.end(FINISHED)
    text = said(capsys)
    assert text.count("warning") == 1 and "training continues" in text
    assert f"log.to=mlflow: {type(error).__name__}: {' '.join(str(error).split())}; noth" in text


def test_a_server_that_hangs_delays_the_end_by_a_bounded_time(capsys, monkeypatch):
    monkeypatch.setattr(background, "END_SECONDS", 0.2)
    hangs, recorder = threading.Event(), Recorder()
    recorder.config = lambda values: hangs.wait()
    logger = BackgroundLogger("wandb", lambda run: recorder, run_of({}))
    logger.config({})
    for step in range(1, 100):
        logger.scalars(step, {})  # at once
    logger.end(FINISHED)
    assert "log.to=wandb: it has not taken everything within 0 s" in said(capsys)
    hangs.set()
    logger._thread.join()
