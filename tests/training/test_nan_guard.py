"""Numbers that are not finite: the run stops or skips the step, and names the images."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlcls_jax.config import Config, Data, Train
from mlcls_jax.data.loaders.loader import batch_filenames
from mlcls_jax.step.programs import step_spec
from mlcls_jax.training.nan_guard import check_finite, check_losses

NAMES = tuple(f"{index}.jpg" for index in range(40))


class Table(SimpleNamespace):
    def __len__(self):
        return len(self.filenames)


def make_context(train: Train, saved: int | None = 8) -> Any:
    logged: list[tuple[int, dict]] = []
    config = Config(data=Data(batch_size=2), train=train)
    return SimpleNamespace(
        inputs=SimpleNamespace(
            config=config,
            step=step_spec(config, 3),
            splits={"train": Table(filenames=NAMES, repeats=None)},
        ),
        services=SimpleNamespace(
            checkpoints=SimpleNamespace(check=lambda: None, latest=lambda: saved),
            log=SimpleNamespace(write_scalars=lambda step, values: logged.append((step, values))),
            skipped_steps=[],
        ),
        logged=logged,
    )


def images_of(step: int) -> str:
    table: Any = Table(filenames=NAMES, repeats=None)
    return ", ".join(batch_filenames(table, step, 2, 0))


def call(first: int, losses, norms=None, **extra) -> tuple[range, dict]:
    """Returns the steps and metrics of one call that takes several steps."""
    norms = np.ones(len(losses)) if norms is None else norms
    metrics = {"loss": np.array(losses), "grad_norm": np.array(norms)} | extra
    return range(first, first + len(losses)), metrics


@pytest.mark.parametrize(
    ("losses", "norms", "what"),
    [
        ([1.0, np.nan, np.nan], [1.0, 1.0, np.nan], "loss is nan"),
        ([1.0, np.inf, 1.0], None, "loss is inf"),
        ([1.0, 1.0, 1.0], [1.0, np.inf, 1.0], "grad_norm is inf"),  # the loss is still finite
        ([1.0, np.nan, 1.0], [1.0, np.nan, 1.0], "grad_norm is nan and loss is nan"),
    ],
)
def test_the_first_number_that_is_not_finite_stops_the_run(losses, norms, what):
    context = make_context(Train())
    with pytest.raises(FloatingPointError) as caught:
        check_losses(context, [call(8, [1.0, 2.0]), call(10, losses, norms)])
    text = str(caught.value)
    assert text.startswith(
        f"{what} at step 12; the checkpoint of step 8 remains. Lower the learning"
    )
    assert "set --config.train.on_nan=skip to skip such steps, or look at" in text
    assert text.endswith("images: " + images_of(11))
    assert "\n" not in text and not context.logged


def test_skipped_steps_are_reported_counted_and_limited(capsys):
    context = make_context(Train("skip", max_skipped=2), saved=None)
    skipped = {"skipped": np.array([False, True, False, True])}
    check_losses(context, [call(4, [1.0, np.nan, 3.0, 1.0], [1.0, 1.0, 2.0, np.inf], **skipped)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("warning: loss is nan at step 6, which is skipped (1 since the start, ")
    assert second.startswith("warning: grad_norm is inf at step 8, which is skipped (2 since the")
    assert second.endswith("images: " + images_of(7))
    # Only the last step that was taken is logged.
    assert context.logged == [(8, {"step/loss": 3.0, "step/grad_norm": 2.0, "step/skipped": 2})]
    assert context.services.skipped_steps == [5, 7]
    with pytest.raises(FloatingPointError) as caught:
        check_losses(context, [call(8, [np.inf], skipped=np.array(True))])
    text = str(caught.value)
    assert text.startswith("3 steps were skipped, more than train.max_skipped=2: loss is inf at ")
    assert (
        "step 9; there is no checkpoint yet. Lower the learning rates of the phase in a new" in text
    )


def test_parameters_that_are_not_finite_are_refused_with_their_step():
    context = make_context(Train("skip"))
    check_finite(context, 12, True)
    with pytest.raises(FloatingPointError, match="parameter is not finite at step 12; the checkp"):
        check_finite(context, 12, False)
