"""Weights & Biases.  Its own variables apply, such as WANDB_MODE, WANDB_ENTITY and WANDB_DIR."""

import os
import secrets
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mlcls_jax.run.loggers.logger import FINISHED, STOPPED, LoggedImage, LoggedRun, RunLogger

_EXIT_CODES = {FINISHED: 0, STOPPED: 255}  # 255, as W&B itself reports Ctrl-C


def start(run: LoggedRun) -> RunLogger:
    """Returns the logger of a run; a continued run keeps its id.

    Raises:
        ValueError: nobody is logged in.
    """
    import wandb  # pyright: ignore[reportMissingImports]

    if wandb.setup().settings.mode in ("online", "shared") and not wandb.login(prompt=False):
        raise ValueError("nobody is logged in; run wandb login, or set WANDB_MODE=offline")
    name = run.kept.get("id") or secrets.token_hex(4)
    run.keep({"id": name})
    # Its copy of the terminal would have every state of the progress bar, and its summary at the
    # end repeats what the run prints.
    own = {"console": "off", "quiet": True}
    settings = {k: v for k, v in own.items() if f"WANDB_{k.upper()}" not in os.environ}
    return WandbLogger(
        wandb,
        wandb.init(
            project=run.project,
            name=run.name,
            group=run.group or None,
            id=name,
            resume="allow",
            settings=wandb.Settings(**settings),
        ),
    )


class WandbLogger(RunLogger):
    """Writes to a run of W&B, which ignores steps that it has already."""

    def __init__(self, wandb: Any, run: Any):
        """Writes nothing yet; wandb, run: the package and the run that it has started."""
        self._wandb, self._run = wandb, run

    def config(self, values: dict[str, Any]) -> None:
        """Stores the fields of the config."""
        self._run.config.update(values, allow_val_change=True)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs numbers."""
        self._run.log(values, step=step)

    def images(self, step: int, title: str, images: Sequence[LoggedImage]) -> None:
        """Logs images with their captions."""
        opened = [(Image.open(BytesIO(image.jpeg)), image.caption) for image in images]
        shown = [self._wandb.Image(image, caption=caption) for image, caption in opened]
        self._run.log({title: shown}, step=step)

    def artifacts(self, files: Sequence[Path]) -> None:
        """Copies files into an artifact of the run."""
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="run")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def end(self, state: str) -> None:
        """Finishes the run, with the exit code that says how."""
        self._run.finish(exit_code=_EXIT_CODES.get(state, 1))
