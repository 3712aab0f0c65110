"""Trackio, which keeps runs on this machine.  Its own variables apply, such as TRACKIO_DIR."""

import secrets
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.run.loggers.logger import LoggedImage, LoggedRun, RunLogger


def start(run: LoggedRun) -> RunLogger:
    """Returns the logger of a run; a continued run goes on under its name, which is unique."""
    import trackio  # pyright: ignore[reportMissingImports]

    name = run.kept.get("id") or f"{run.name}-{secrets.token_hex(3)}"
    run.keep({"id": name})

    def init(config: dict[str, Any]) -> Any:
        return trackio.init(
            project=run.project,
            name=name,
            group=run.group or None,
            config=config,
            resume="allow",
            embed=False,
        )

    return TrackioLogger(trackio, init)


class TrackioLogger(RunLogger):
    """Writes to a run of trackio."""

    def __init__(self, trackio: Any, init: Any):
        """Writes nothing yet; trackio, init: the package, and what starts a run with a config."""
        self._trackio, self._init = trackio, init
        self._run: Any = None

    def config(self, values: dict[str, Any]) -> None:
        """Starts the run with the fields of the config."""
        self._run = self._init(flatten_fields(values))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs numbers."""
        self._run.log(values, step=step)

    def images(self, step: int, title: str, images: Sequence[LoggedImage]) -> None:
        """Logs images with their captions, each under a number."""
        opened = [(Image.open(BytesIO(image.jpeg)), image.caption) for image in images]
        shown = [self._trackio.Image(image, caption=caption) for image, caption in opened]
        self._run.log({f"{title}/{i}": image for i, image in enumerate(shown)}, step=step)

    def artifacts(self, files: Sequence[Path]) -> None:
        """Copies files into an artifact of the run."""
        artifact = self._trackio.Artifact(name=f"run-{self._run.name}", type="run")
        for file in files:
            artifact.add_file(file)
        self._run.log_artifact(artifact)

    def end(self, state: str) -> None:
        """Finishes the run; trackio does not tell how."""
        self._run.finish()
