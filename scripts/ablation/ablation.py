"""Measures what each training option gains: same data and steps, one change per row.

    python scripts/ablation/ablation.py --csv labels.csv --images photos --variant lite0
    python scripts/ablation/ablation.py --csv labels.csv --images photos --rows loss,mixup
    python scripts/ablation/ablation.py --data demo --epochs 2 4    # the demo data
    python scripts/ablation/ablation.py --list                      # print the rows

Each run is one `python -m mlcls_jax.train` from the pretrained weights to the end, in
OUT/<data>/<network>/<row>/<seed>. The seed also splits the images, so all rows are compared on the
same splits. Running the same command again skips finished runs and continues interrupted ones.
Config overrides for every run go at the end: --config.evaluation.min_positives=10.

Prints validation mAP as mean and sample standard deviation over the seeds, after the last step and
at the best evaluation (an optimistic figure, because it is selected on the same images), the
differences to the baseline with the same seed, and the minutes per run on this machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ablation_rows import BASELINE, ROWS, Row, choose, default_rows, overrides

from mlcls_jax.cli import run
from mlcls_jax.config.loading import load_config
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.system.files import write_text

ROOT = Path(__file__).parents[2]
Call = Callable[[list[str], Path], None]  # runs a command and appends its output to a file


@dataclass(frozen=True)
class Result:
    """Result of one run.

    Attributes:
        row: name of the row.
        seed: seed of the run and of its split.
        end: val mAP after the last step.
        best: val mAP at the best evaluation.
        minutes: wall time.
    """

    row: str
    seed: int
    end: float
    best: float
    minutes: float


@dataclass(frozen=True)
class Study:
    """Settings that all runs share.

    Attributes:
        folder: contains a folder for each row.
        config: a config file.
        common: arguments of every training command.
        epochs: epochs of the head's phase and of fine-tuning.
    """

    folder: Path
    config: Path
    common: tuple[str, ...]
    epochs: tuple[int, int]

    def arguments(self, row: Row, seed: int) -> list[str]:
        """Returns the arguments of `mlcls_jax.train`, without the workdir."""
        changes = [*self.common, *overrides(row, seed, self.epochs)]
        return ["--config", str(self.config), *changes]


def main(arguments: list[str]) -> int:
    options, rest = parse(arguments)
    if options.list:
        for row in ROWS:
            print(f"{row.group:10} {row.name:16} {' '.join(row.evaluate) or row.change}")
        return 0
    study, rows = make_study(options, rest), choose(options.rows)
    check(study, [row for row in rows if not row.evaluate])
    tasks = [(row, seed) for seed in options.seeds for row in rows]
    results: list[Result] = []
    with ThreadPoolExecutor(options.processes) as pool:
        # Rows that evaluate the baseline's runs must come after these runs.
        for trained in (True, False):
            chosen = [task for task in tasks if bool(task[0].evaluate) != trained]
            for result in pool.map(lambda task: measure(study, task[0], task[1], call), chosen):
                results.append(result)
                write_results(options.out / "results.json", study, results)
                print(f"{result.row} {result.seed}: {result.end:.4f}", file=sys.stderr)
    print(markdown(results, [row.name for row in rows]))
    return 0


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the config overrides for every run."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--data", default="", choices=("", "demo"), help="use the demo data instead of --csv"
    )
    parser.add_argument("--csv", type=Path, help="label CSV, as for mlcls_jax.train")
    parser.add_argument("--images", type=Path, help="folder with the images of --csv")
    parser.add_argument("--variant", default="lite0", help="network: lite0, b0, ...")
    parser.add_argument("--weights", default="imagenet", help="name or file of the weights")
    parser.add_argument(
        "--rows", default=default_rows(), help="comma-separated rows and groups; see --list"
    )
    parser.add_argument(
        "--seeds", type=_numbers, default=_numbers("42,43,44"), help="comma-separated seeds"
    )
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=(6, 12), help="epochs of the head, of fine-tuning"
    )
    parser.add_argument("--out", type=Path, default=Path("ablation"), help="folder for the runs")
    parser.add_argument("--processes", type=int, default=1, help="number of runs at a time")
    parser.add_argument("--list", action="store_true", help="print the rows and exit")
    options, rest = parser.parse_known_args(arguments)
    if not options.list and bool(options.data) == bool(options.csv and options.images):
        parser.error("set --csv and --images, or --data demo")
    return options, rest


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def make_study(options: argparse.Namespace, rest: list[str]) -> Study:
    """Returns the folder and the settings that the runs share."""
    if options.data:
        config, name, data = ROOT / "configs" / "demo.py", options.data, []
    else:
        config, name = ROOT / "configs" / "default.py", options.csv.resolve().parent.name
        data = [f"--config.data.csv={options.csv.resolve()}"]
        data += [f"--config.data.images={options.images.resolve()}", "--config.data.cache=disk"]
    model = [
        f"--config.model.variant={options.variant}",
        f"--config.model.weights={options.weights}",
    ]
    folder = options.out / name / options.variant
    return Study(folder, config, (*data, *model, *rest), tuple(options.epochs))


def check(study: Study, rows: Sequence[Row]) -> None:
    """Raises ValueError for the first row whose config is invalid, before anything runs."""
    for row in rows:
        _, config, *changes = study.arguments(row, 0)
        try:
            load_config(config, changes)
        except ValueError as error:
            raise ValueError(f"row {row.name}: {error}") from error


def measure(study: Study, row: Row, seed: int, call: Call) -> Result:
    """Returns the stored result of a row and seed, or runs it first.

    Args:
        study: settings that the runs share.
        row: the change to measure.
        seed: seed of the split and of the run.
        call: runs a command, and raises if it fails.

    Raises:
        ValueError: the stored result has other settings, or the run fails.
    """
    workdir = study.folder / row.name / str(seed)
    stored, log = workdir.with_suffix(".json"), workdir.with_suffix(".log")
    workdir.parent.mkdir(parents=True, exist_ok=True)
    settings = list(row.evaluate) or study.arguments(row, seed)
    state = (
        json.loads(stored.read_text()) if stored.exists() else {"settings": settings, "minutes": 0}
    )
    if state["settings"] != settings:
        raise ValueError(
            f"{stored} has other settings ({_differing(state['settings'], settings)}); remove it "
            f"and {workdir}, or choose another --out"
        )
    if "end" in state:
        return Result(row.name, seed, state["end"], state["best"], state["minutes"])
    began = time.perf_counter()
    try:
        if row.evaluate:
            end, best = evaluated(study.folder / BASELINE / str(seed), row.evaluate, log, call)
        else:
            command = ["-m", "mlcls_jax.train", *settings, "--workdir", str(workdir)]
            call([sys.executable, *command], log)
            end, best = trained(workdir)
        state |= {"end": end, "best": best}
    finally:  # the minutes of an interrupted run count too
        state["minutes"] += (time.perf_counter() - began) / 60
        write_text(stored, json.dumps(state, indent=2) + "\n")
    return Result(row.name, seed, end, best, state["minutes"])


def trained(workdir: Path) -> tuple[float, float]:
    """Returns the val mAP of a run after its last step, and at its best evaluation.

    With EMA, the first is that of the EMA parameters. Taking the better of raw and averaged
    parameters would be a selection on the same images.
    """
    records = read_metrics(workdir)
    end = records[-1].get("val_ema", records[-1]["val"])["mAP"]
    return end, max(record["val"]["mAP"] for record in records)


def evaluated(workdir: Path, options: Sequence[str], log: Path, call: Call) -> tuple[float, float]:
    """Returns the val mAP of a run's latest and best checkpoint, evaluated with the options."""
    values = []
    for checkpoint in ("latest", "best"):
        command = ["-m", "mlcls_jax.evaluate", "--workdir", str(workdir), *options]
        call([sys.executable, *command, "--checkpoint", checkpoint], log)
        values.append(json.loads((workdir / "eval_val.json").read_text())["values"]["mAP"])
    return values[0], values[1]


def call(command: list[str], log: Path) -> None:
    """Runs a command and appends its output to the log.

    Raises:
        ValueError: the command failed; the message has the last line of the log.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("a", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env).returncode
    if code:
        lines = log.read_text(encoding="utf-8").split("\n")
        last_line = next((line for line in reversed(lines) if line.strip()), "no output")
        raise ValueError(f"{' '.join(command[1:3])} ended with {code}: {last_line} (see {log})")


def _differing(ours: list[str], theirs: list[str]) -> str:
    return ", ".join(sorted({*ours} ^ {*theirs})) or "the same in another order"


def write_results(path: Path, study: Study, results: Sequence[Result]) -> None:
    """Adds results to the file, replacing earlier ones of the same runs."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows = known.setdefault("/".join(study.folder.parts[-2:]), {})
    for result in results:
        values = {"end": result.end, "best": result.best, "minutes": round(result.minutes, 2)}
        rows.setdefault(result.row, {})[str(result.seed)] = values
    write_text(path, json.dumps(known, indent=2) + "\n")


def markdown(results: Sequence[Result], names: Sequence[str]) -> str:
    """Returns the table in Markdown; differences are paired by seed."""
    header = [
        "",
        "val mAP at the end",
        "difference",
        "at its best",
        "difference",
        "minutes",
        "runs",
    ]
    base = {result.seed: result for result in results if result.row == BASELINE}
    lines = []
    for name in names:
        of_row = [result for result in results if result.row == name]
        cells = [name]
        for which in ("end", "best"):
            values = [getattr(result, which) for result in of_row]
            paired = [getattr(r, which) - getattr(base[r.seed], which) for r in of_row]
            cells += [spread(values), "" if name == BASELINE else spread(paired, "+")]
        lines.append([*cells, f"{mean(r.minutes for r in of_row):.1f}", f"{len(of_row)}"])
    return _markdown_table(header, lines)


def _markdown_table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Returns "mean ± sample standard deviation", or the mean alone for a single value."""
    deviation = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.4f}{deviation}"


if __name__ == "__main__":
    run(main)
