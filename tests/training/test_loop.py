"""The loop does not wait for the devices between logs, and compiles only before its first step."""

import threading
from collections import defaultdict
from itertools import count
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from mlcls_jax.config import Checkpoint, Config, Data, Group, Model, Phase
from mlcls_jax.run.checkpoint_integrity import FOLDER, steps_in_folder
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.step.programs import step_spec
from mlcls_jax.system.files import damage
from mlcls_jax.system.signals import SaveClock
from mlcls_jax.system.threads import is_busy, run
from mlcls_jax.train import train
from mlcls_jax.training import loop
from mlcls_jax.training.epoch_line import epoch_line
from mlcls_jax.training.loop import run_steps
from mlcls_jax.training.timing import PhaseTimer
from mlcls_jax.training.validation import Evaluator


class OnDevice:
    """A value that is never ready, and that records when it is fetched anyway."""

    def __init__(self, fetched: dict[int, int], steps: list[int]):
        self.fetched, self.steps, self.step = fetched, steps, len(steps)

    def is_ready(self) -> bool:
        return False

    def __array__(self, *_, **__):
        self.fetched[len(self.steps)] += 1
        return np.float32(0.5)

    def block_until_ready(self):
        raise AssertionError("the loop waits")


def test_values_are_fetched_every_log_every_steps_and_at_the_end():
    steps: list[int] = []
    fetched: dict[int, int] = defaultdict(int)
    logged: list[int] = []

    def step(state, _):
        steps.append(len(steps))
        return state, {"loss": OnDevice(fetched, steps), "grad_norm": OnDevice(fetched, steps)}

    context: Any = SimpleNamespace(
        inputs=SimpleNamespace(step=step_spec(Config(log_every=4), 3)),
        services=SimpleNamespace(
            stop=threading.Event(),
            checkpoints=SimpleNamespace(check=lambda: None),
            log=SimpleNamespace(write_scalars=lambda step, _: logged.append(step)),
            timer=PhaseTimer(),
        ),
    )
    state: Any = SimpleNamespace(step=20)  # a dispatched step never reads it again
    batches: Any = count()
    moments: list[int] = []
    _, meter = run_steps(
        context,
        step,
        batches,
        state,
        end=30,
        title="phase",
        after_check=lambda _, step: moments.append(step),
    )
    assert (len(steps), meter.done) == (10, 10)
    assert moments == [24, 28, 30]  # the same in each process, as no clock is asked
    assert fetched == {4: 8, 8: 8, 10: 4}  # after so many steps: two values each
    assert logged == [24, 28, 30]


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("bce", "train loss 0.2500, val loss 0.5000 (base rate 0.7500), mAP"),
        ("weighted bce", "train weighted bce 0.2500, val bce 0.5000 (base rate 0.7500), mAP"),
        ("asl", "train asl 0.2500, val bce 0.5000 (base rate 0.7500), mAP"),
    ],
)
def test_the_line_names_a_training_loss_that_is_not_comparable_with_the_val_loss(name, begins):
    record = {
        "phase": "head",
        "epoch": 1.0,
        "step": 7,
        "loss_name": name,
        "train_loss": 0.25,
        "best_by": "mAP",
        "val": {"loss": 0.5, "mAP": 0.5, "CF1": 0.5, "AUROC": 0.8},
        "base_rate": {"loss": 0.75, "mAP": 0.1, "AUROC": 0.5},
        "images_per_second": 10.0,
    }
    line = epoch_line(record, "1 of 3")
    assert line.startswith(f"head epoch 1 of 3, step 7: {begins}") and "AUROC" not in line
    assert "CF1 0.5000, AUROC 0.8000 (base rate 0.5000), " in epoch_line(
        record | {"best_by": "AUROC"}, "1 of 3"
    )


@pytest.mark.slow
def test_after_the_first_step_of_a_phase_nothing_is_compiled(photos, tiny, tmp_path, monkeypatch):
    compiled: list[str] = []

    def listen(event: str, _: float, **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(threading.current_thread().name)

    late: dict[str, int] = {}

    def count(owner, name: str, describe) -> None:
        function = getattr(owner, name)

        def counted_call(*args, **options):
            if name == "run_steps":  # compiles next to the first steps
                args[0].services.compile_ahead._evaluation.result()
            seen = len(compiled)
            returned = function(*args, **options)
            late[describe(args, options)] = len(compiled) - seen
            return returned

        monkeypatch.setattr(owner, name, counted_call)

    count(loop, "run_steps", lambda _, options: f"steps to {options['end']}")
    count(Evaluator, "run", lambda args, _: f"evaluation {args[2]}")
    count(loop, "save_between", lambda args, _: f"save {args[3]}")
    # A save between evaluations is always due, and has been written before the next one.
    monkeypatch.setattr(Checkpoints, "is_saving", lambda checkpoints: checkpoints.wait())
    config = Config(
        log_every=1,
        checkpoint=Checkpoint(every_minutes=1e-9),
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        model=Model(variant=tiny, weights="", image_size=32),
        phases=[
            Phase("head", "4 steps", [Group("head/.*", 1e-2)]),
            Phase("tail", "4 steps", [Group("(head|backbone/top)/.*", 1e-2)]),
        ],
    )
    config.evaluation.every = "2 steps"
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert train(config, tmp_path / "run") == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled  # the listener works
    names = [f"{what} {n}" for what in ("steps to", "evaluation") for n in (2, 4, 6, 8)]
    names += [f"save {n}" for n in (1, 3, 5, 7)]
    assert late == dict.fromkeys(names, 0)


def test_an_error_in_a_thread_is_raised_when_its_result_is_read():
    def fail():
        raise ValueError("image 3.jpg cannot be read")

    with pytest.raises(ValueError, match=r"3\.jpg"):
        run(fail).result()
    gate = threading.Event()
    waiting = run(gate.wait)
    assert is_busy()
    gate.set()
    assert waiting.result()


@pytest.mark.slow
def test_an_error_after_a_save_has_begun_keeps_the_save(photos, tiny, tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("the clock is broken")

    monkeypatch.setattr(SaveClock, "restart", fails)
    phase = Phase("head", "2 epochs", [Group("head/.*", 1e-3)])
    data = Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8, eval_batch_size=8)
    model = Model(variant=tiny, weights="", image_size=32)
    config = Config(data=data, model=model, phases=[phase])
    with pytest.raises(ValueError, match="the clock is broken"):
        train(config, tmp_path)
    (step,) = steps_in_folder(tmp_path / FOLDER)
    assert not damage(tmp_path / FOLDER / str(step))
