"""Compares the rate that lr-find suggests with the best one of a sweep of real short runs.

    python scripts/learning/rate_sweep.py --csv data/demo/labels.csv --images data/demo/images

Four small runs: a frozen Lite0 with cached features, the same with another loss and with another
batch size, and a small network that is trained as a whole.  The rates of a sweep are a factor of 3
apart.  It begins with five around 1e-2 and goes on until neither end has the best val mAP.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import pandas as pd
from flax import linen as nn

from mlcls_jax.config import Augment, Config, Data, Evaluation, Group, Loss, Model, Phase
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console
from mlcls_jax.training.loop import run_phase
from mlcls_jax.training.lr_range import run_lr_test, steps_of_test, variables_at_start
from mlcls_jax.training.phase_transition import begin_phase
from mlcls_jax.training.setup import open_run
from mlcls_jax.training.timing import StartupTimer

FACTOR, MIDDLE, AROUND = 3.0, 1e-2, 2  # of the rates of a sweep; AROUND on each side at first
LOW, HIGH = 1e-7, 10.0  # of lr-find
LIMITS = 1e-5, 30.0  # a sweep goes no further


class SmallNetwork(nn.Module):
    """Three convolutions and a dense head."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool):
        for i, features in enumerate((16, 32, 64)):
            x = nn.relu(nn.Conv(features, (3, 3), strides=2, name=f"conv{i}")(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--csv", required=True, help="labels")
    parser.add_argument("--images", required=True, help="folder of the images")
    parser.add_argument("--most", type=int, default=600, help="images used (default 600)")
    parser.add_argument("--only", default="", help="only runs whose name has this text")
    options = parser.parse_args()
    distributed.start()
    console.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "labels.csv"
        table = pd.read_csv(options.csv).drop(columns="split", errors="ignore")
        table.sample(min(options.most, len(table)), random_state=0).to_csv(csv, index=False)
        print("| run | suggested | best of the sweep | factor | val mAP by rate |")
        print("|:--|--:|--:|--:|:--|", flush=True)
        runs = configs(str(csv), options.images)
        for name, config in runs.items():
            if options.only not in name:
                continue
            suggested = suggestion(config, Path(folder))
            found = sweep(config, Path(folder))
            best = max(found, key=lambda rate: found[rate])
            ratio = f"{max(suggested / best, best / suggested):.1f}" if suggested else "–"
            each = ", ".join(f"{rate:.1g}: {found[rate]:.3f}" for rate in sorted(found))
            print(f"| {name} | {suggested or 0:.1e} | {best:.1e} | {ratio} | {each} |", flush=True)


def configs(csv: str, images: str) -> dict[str, Config]:
    """Returns the runs by name; each has one phase with one group."""
    head = Config(
        recipe="none",
        data=Data(csv=csv, images=images, batch_size=32),
        augment=Augment(symmetry="none"),
        model=Model(variant="lite0", image_size=64),
        evaluation=Evaluation(train_sample=0, every="1000 epochs"),
        phases=[Phase("head", "8 epochs", [Group("head/.*", 1e-2)], cached_views=1)],
    )
    small = Model(custom="rate_sweep:SmallNetwork", image_size=32, weights="")
    whole = Phase("all", "8 epochs", [Group(".*", 1e-2)], batch_norm="frozen")
    return {
        "frozen backbone": head,
        "frozen backbone, asymmetric loss": dataclasses.replace(head, loss=Loss("asl")),
        "frozen backbone, batches of 8": dataclasses.replace(
            head, data=dataclasses.replace(head.data, batch_size=8)
        ),
        "three convolutions from random weights": dataclasses.replace(
            head, model=small, phases=[whole]
        ),
    }


def suggestion(config: Config, folder: Path) -> float | None:
    """Returns what lr-find suggests for the phase of a run."""
    context, state = open_run(config, folder / f"test{time.time_ns()}")
    try:
        (plan,) = context.inputs.plan
        variables = variables_at_start(context, plan, state, None)
        test = run_lr_test(context, plan, variables, (LOW, HIGH), steps_of_test(plan))
        return test.suggestion
    finally:
        context.services.close()


def sweep(config: Config, folder: Path) -> dict[float, float]:
    """Returns the last val mAP of a run by its learning rate."""
    found: dict[float, float] = {}
    wanted = [MIDDLE * FACTOR**power for power in range(-AROUND, AROUND + 1)]
    while wanted:
        for rate in wanted:
            found[rate] = last_map(config, rate, folder)
        best, low, high = max(found, key=lambda rate: found[rate]), min(found), max(found)
        further = {low: low / FACTOR, high: high * FACTOR}.get(best)
        wanted = [further] if further and LIMITS[0] < further < LIMITS[1] else []
    return found


def last_map(config: Config, rate: float, folder: Path) -> float:
    """Returns the val mAP at the end of a run; 0 if its loss is not finite."""
    (phase,) = config.phases
    groups = [dataclasses.replace(group, learning_rate=rate) for group in phase.groups]
    config = dataclasses.replace(config, phases=[dataclasses.replace(phase, groups=groups)])
    workdir = folder / f"run{time.time_ns()}"
    context, state = open_run(config, workdir)
    try:
        (plan,) = context.inputs.plan
        with StartupTimer(time.perf_counter()) as startup:
            run_phase(context, plan, begin_phase(context, plan, state), startup)
    except FloatingPointError:
        return 0.0
    finally:
        context.services.close()
    return read_metrics(workdir)[-1]["val"]["mAP"]


if __name__ == "__main__":
    main()
