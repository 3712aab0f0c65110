"""MLflow.  Its own variables apply, such as MLFLOW_TRACKING_URI."""

import math
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.run.loggers.logger import FINISHED, STOPPED, LoggedImage, LoggedRun, RunLogger

_STATES = {FINISHED: "FINISHED", STOPPED: "KILLED"}
_MOST, _LONGEST = 100, 6000  # parameters of one request, and characters of one


def start(run: LoggedRun) -> RunLogger:
    """Returns the logger of a run; a continued run goes on under its id."""
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]
    from mlflow.tracking.context.registry import (  # pyright: ignore[reportMissingImports]
        resolve_tags,
    )

    client = MlflowClient()
    if name := run.kept.get("id"):
        client.update_run(name, status="RUNNING")
        return MlflowLogger(client, name)
    found = client.get_experiment_by_name(run.project)
    experiment = found.experiment_id if found else client.create_experiment(run.project)
    tags = resolve_tags({"group": run.group} if run.group else {})  # with the user and the commit
    name = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
    run.keep({"id": name})
    return MlflowLogger(client, name)


class MlflowLogger(RunLogger):
    """Writes to a run of MLflow."""

    def __init__(self, client: Any, run: str):
        """Writes nothing yet; client, run: an MlflowClient, and the id of the run."""
        self._client, self._run = client, run

    def config(self, values: dict[str, Any]) -> None:
        """Stores the fields of the config that the run has not yet; MLflow changes none."""
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        known = self._client.get_run(self._run).data.params
        fields = {_key(path): str(value) for path, value in flatten_fields(values).items()}
        new = [Param(k, value[:_LONGEST]) for k, value in fields.items() if k not in known]
        for part in _parts(new):
            self._client.log_batch(self._run, params=part)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs numbers in one request; those that are not finite are left out."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        metrics = [Metric(_key(name), float(value), now, step) for name, value in finite.items()]
        for part in _parts(metrics):
            self._client.log_batch(self._run, metrics=part)

    def images(self, step: int, title: str, images: Sequence[LoggedImage]) -> None:
        """Stores images in a folder of the step, in their order."""
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            for i, image in enumerate(images):
                file = Path(folder, f"{i:02} {_key(Path(image.name).stem)[-80:]}.jpg")
                file.write_bytes(image.jpeg)
                lines.append(f"{file.name}: {image.caption}\n")
            Path(folder, "captions.txt").write_text("".join(lines), encoding="utf-8")
            self._client.log_artifacts(self._run, folder, f"{_key(title)}/step {step}")

    def artifacts(self, files: Sequence[Path]) -> None:
        """Stores files."""
        for file in files:
            self._client.log_artifact(self._run, str(file))

    def end(self, state: str) -> None:
        """Ends the run as finished, killed or failed."""
        self._client.set_terminated(self._run, _STATES.get(state, "FAILED"))


def _key(name: str) -> str:
    """Returns a name with the characters that MLflow allows.

    >>> _key("val/precision@recall=0.9"), _key("phases[0].duration")
    ('val/precision_recall_0.9', 'phases.0.duration')
    """
    return re.sub(r"[^\w\-. /]", "_", re.sub(r"\[(\d+)\]", r".\1", name), flags=re.ASCII)


def _parts(entries: list[Any]) -> Iterator[list[Any]]:
    """Yields as many as one request may have."""
    return (entries[i : i + _MOST] for i in range(0, len(entries), _MOST))
