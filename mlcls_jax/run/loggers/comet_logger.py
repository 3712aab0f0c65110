"""Comet.  Its own variables apply, such as COMET_API_KEY and COMET_START_ONLINE."""

import secrets
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.run.loggers.logger import LoggedImage, LoggedRun, RunLogger


def start(run: LoggedRun) -> RunLogger:
    """Returns the logger of a run; a continued run keeps its key.

    Raises:
        ValueError: there is no API key for a run that is not offline.
    """
    import comet_ml  # pyright: ignore[reportMissingImports]

    settings = comet_ml.get_config()  # pyright: ignore[reportPrivateImportUsage]
    if settings["comet.start.online"] is not False and not settings["comet.api_key"]:
        raise ValueError("there is no API key; set COMET_API_KEY, or COMET_START_ONLINE=0")
    key = run.kept.get("key") or secrets.token_hex(16)
    own = comet_ml.ExperimentConfig(
        name=run.name,
        tags=[run.group] if run.group else [],
        # Else it has every state of the progress bar.
        auto_output_logging=False,  # pyright: ignore[reportArgumentType]
        display_summary_level=0,
        log_code=False,
        parse_args=False,
    )
    experiment = comet_ml.start(
        project_name=run.project,
        experiment_key=key,
        mode="get_or_create" if run.kept.get("key") else "create",
        experiment_config=own,
    )
    run.keep({"key": key})
    return CometLogger(experiment)


class CometLogger(RunLogger):
    """Writes to an experiment of Comet."""

    def __init__(self, experiment: Any):
        """Writes nothing yet; experiment: the one that Comet has started."""
        self._experiment = experiment

    def config(self, values: dict[str, Any]) -> None:
        """Stores the fields of the config."""
        self._experiment.log_parameters(flatten_fields(values))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs numbers."""
        self._experiment.log_metrics(values, step=step)

    def images(self, step: int, title: str, images: Sequence[LoggedImage]) -> None:
        """Logs images with their captions."""
        for image in images:
            self._experiment.log_image(
                Image.open(BytesIO(image.jpeg)),
                name=f"{title}/{image.name}",
                metadata={"caption": image.caption},
                step=step,
            )

    def artifacts(self, files: Sequence[Path]) -> None:
        """Copies files into the experiment."""
        for file in files:
            self._experiment.log_asset(str(file), file_name=file.name, copy_to_tmp=False)

    def end(self, state: str) -> None:
        """Ends the experiment, with how as another value."""
        self._experiment.log_other("ended", state)
        self._experiment.end()
