"""What a search has found.

tune.csv has all trials, tune.svg draws them, and best.py is a config with the best values.
"""

import io
import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.system.console import print_table
from mlcls_jax.system.files import write_text

TRIALS, CHART, BEST = "tune.csv", "tune.svg", "best.py"
COLUMNS = 3  # charts in a row
FEW = 7  # a field with fewer values is drawn as choices
MOST_SHOWN = 0.8  # share of the trials that are drawn
SHOWN = 10  # trials of the table
_CONFIG = '''"""{title}

mlcls-jax train --config {name} --workdir RUN
"""

from mlcls_jax.config import Config
from mlcls_jax.config.serialization import from_dict

VALUES = {values}


def get_config() -> Config:
    return from_dict(VALUES)
'''


def trials_frame(trials: Sequence[Any], deviations: Mapping[int, float], metric: str) -> Any:
    """Returns a row for each trial: number, score, its deviation over folds, and the values.

    Args:
        trials: of Optuna, the best first.
        deviations: by the number of a trial.
        metric: that decides.
    """
    rows = [
        {
            "trial": one.number,
            metric: one.value,
            "deviation": deviations[one.number],
            "seconds": round(one.duration.total_seconds(), 1) if one.duration else None,
            **one.params,
        }
        for one in trials
    ]
    return pd.DataFrame(rows)


def print_trials(frame: Any, metric: str) -> None:
    """Prints the scores of the best trials and of the config, and the values of the best trial."""
    shown = frame[(frame.index < SHOWN) | (frame["trial"] == 0)]
    rows = [
        [
            "config" if row["trial"] == 0 else f"{row['trial']:.0f}",
            f"{row[metric]:.4f}",
            f"{row['deviation']:.4f}",
            "–" if pd.isna(row["seconds"]) else f"{row['seconds']:.0f}",
        ]
        for _, row in shown.iterrows()
    ]
    print_table("", ["trial", metric, "deviation", "seconds"], rows)
    best, config = frame.iloc[0], frame[frame["trial"] == 0]
    if best["trial"] == 0 or config.empty:
        return
    values = [[path, config.iloc[0][path], best[path]] for path in frame.columns[4:]]
    rows = [[path, _short(ours), _short(theirs)] for path, ours, theirs in values]
    print_table("", ["field", "config", f"trial {best['trial']:.0f}"], rows)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw_trials(frame: Any, metric: str) -> Any:
    """Returns a figure of the scores by number and by each field; the config is a square.

    Trials that are worse than four fifths of the others are left out, so that the rest has room.

    Args:
        frame: from `trials_frame`.
        metric: that decides.
    """
    from matplotlib.figure import Figure  # takes half a second, so not before the first trial

    shown = frame[frame.index <= MOST_SHOWN * len(frame)]
    charts = ["trial", *frame.columns[4:]]
    rows = -(-len(charts) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.8 * rows), layout="constrained")
    figure.suptitle(f"The best {len(shown)} of {len(frame)} trials")
    for i, path in enumerate(charts):
        axes = figure.add_subplot(rows, COLUMNS, i + 1, xlabel=path, ylabel=metric)
        part = shown.sort_values(path)
        if len(frame[path].unique()) < FEW:  # choices have no distances
            values = part[path].map(_short)
        else:
            values = part[path]
            axes.set_xscale("log" if path.endswith("learning_rate") else "linear")
        is_config = part["trial"] == 0
        axes.plot(values, part[metric], "o", color="C0", alpha=0.6, markersize=5)
        axes.plot(values[is_config], part[metric][is_config], "s", color="C1", markersize=7)
    return figure


def write_results(
    workdir: Path, frame: Any, metric: str, title: str, values: Mapping[str, Any]
) -> list[Path]:
    """Writes the files, and returns their paths.

    Args:
        workdir: of the search.
        frame: from `trials_frame`.
        metric: that decides.
        title: what best.py says about itself, one line.
        values: the config with the best values, as of `dataclasses.asdict`.

    Raises:
        ValueError: a file cannot be written.
    """
    trials, chart, best = workdir / TRIALS, workdir / CHART, workdir / BEST
    write_text(trials, csv_text(frame))
    drawn = io.StringIO()
    draw_trials(frame, metric).savefig(drawn, format="svg", metadata={"Date": None})
    write_text(chart, drawn.getvalue())
    text = pprint.pformat(values, width=98, sort_dicts=False)
    write_text(best, _CONFIG.format(title=title, name=best, values=text))
    return [trials, chart, best]
