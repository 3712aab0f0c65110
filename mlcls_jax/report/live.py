"""Updates the report of a run during training, at a bounded cost."""

import base64
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.finding import Finding
from mlcls_jax.evaluation.best_metric import DEFAULT, goodness
from mlcls_jax.options.report import MOST
from mlcls_jax.report.html import write_report
from mlcls_jax.report.inputs import Scored, gather
from mlcls_jax.report.thumbnails import SHOWN, Example, Thumbnails, mistakes
from mlcls_jax.run.best_scores import BestEvaluation, write_best_evaluation
from mlcls_jax.run.loggers.logger import LoggedImage
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.system import threads
from mlcls_jax.system.console import print_warning

SHARE = 0.05  # of the time may go into reports; the last one is always written


class LiveReport:
    """Writes report.html in a thread, after evaluations and at the end of a run.

    If a report fails, a warning is printed and the training continues.
    """

    def __init__(
        self,
        workdir: Path,
        splits: dict[str, LabelTable],
        pixels: PixelFormat,
        enabled: bool,
        metric: str = DEFAULT,
    ):
        """Prepares the report; writes nothing yet.

        Args:
            workdir: folder of the run.
            splits: labels of the run by split.
            pixels: how images are decoded; see `open_image`.
            enabled: whether to write at all; True in the first process.
            metric: the one that decides the best evaluation.
        """
        self._workdir, self._splits, self._enabled = workdir, splits, enabled
        self._thumbnails = Thumbnails(pixels)
        self._running: Future | None = None
        self._not_before = 0.0
        records = read_metrics(workdir) if enabled else []
        self._metric = metric
        values = [goodness(metric, record["val"][metric]) for record in records]
        self._best = max(values, default=None)
        self._unwritten: BestEvaluation | None = None  # the disk was full

    def evaluated(self, value: float, make_best: Callable[[], BestEvaluation]) -> None:
        """Keeps an evaluation if it is the best so far, and updates the report if there is time.

        Args:
            value: of the metric, on val; its record is already in metrics.jsonl.
            make_best: returns the evaluation.
        """
        if not self._enabled:
            return
        good = goodness(self._metric, value)
        if self._best is None or good >= self._best:
            self._best = good
            self._unwritten = make_best()
        self._write_best()
        busy = self._running is not None and not self._running.done()
        if not busy and time.perf_counter() >= self._not_before:
            self._running = threads.run(self._write)

    def close(self) -> list[Finding]:
        """Writes the last report and returns its diagnosis; [] without an evaluation."""
        if self._running is not None:
            self._running.result()
        self._write_best()
        return self._write(MOST) if self._enabled and self._best is not None else []

    def mistakes(self) -> dict[str, list[LoggedImage]]:
        """Returns the most confident mistakes on val, by kind; a failure is a warning, and {}."""
        if not self._enabled or self._best is None:
            return {}
        try:
            scored = gather(self._workdir, self._splits).scored
            return {} if scored is None else self._mistakes(scored)
        except Exception as error:  # no failure of a logger's images may end the training
            print_warning(f"no images are logged: {type(error).__name__}: {error}")
            return {}

    def _mistakes(self, scored: Scored) -> dict[str, list[LoggedImage]]:
        def image(example: Example) -> LoggedImage:
            url = self._thumbnails.of(scored.table.paths[example.row])
            labels = ", ".join(example.labels) or "none"
            caption = f"{example.name} {example.probability:.2f}; labels: {labels}"
            return LoggedImage(example.filename, caption, base64.b64decode(url.partition(",")[2]))

        kinds = {"missed": 1, "false positives": 0}
        found = {
            kind: map(image, mistakes(scored.table, scored.probabilities, scored.present, label))
            for kind, label in kinds.items()
        }
        return {kind: [one for one in images if one.jpeg] for kind, images in found.items()}

    def _write_best(self) -> None:
        """Writes the best evaluation, again after a failure, which is a warning."""
        if self._unwritten is None:
            return
        try:
            write_best_evaluation(self._workdir, self._unwritten)
            self._unwritten = None
        except ValueError as error:
            print_warning(f"{error}; the next evaluation will try again")

    def _write(self, most: int = SHOWN) -> list[Finding]:
        start = time.perf_counter()
        findings = try_report(self._workdir, self._splits, self._thumbnails, most)
        now = time.perf_counter()
        self._not_before = now + (now - start) / SHARE
        return findings


def try_report(
    workdir: Path,
    splits: dict[str, LabelTable] | None = None,
    thumbnails: Thumbnails | None = None,
    most: int = MOST,
) -> list[Finding]:
    """Writes the report and returns its diagnosis; a failure is a warning, and returns [].

    Args: see `write_report`.
    """
    try:
        return write_report(workdir, splits, thumbnails, most=most)
    except Exception as error:  # no failure of the report may end the training
        print_warning(f"report.html could not be written: {type(error).__name__}: {error}")
        return []
