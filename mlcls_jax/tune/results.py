"""What a search has found: tune.csv with all trials, and best.py, a config with the best values."""

import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.system.console import print_table
from mlcls_jax.system.files import write_text

TRIALS, BEST = "tune.csv", "best.py"
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


def write_results(workdir: Path, frame: Any, title: str, values: Mapping[str, Any]) -> list[Path]:
    """Writes both files, and returns their paths.

    Args:
        workdir: of the search.
        frame: from `trials_frame`.
        title: what best.py says about itself, one line.
        values: the config with the best values, as of `dataclasses.asdict`.

    Raises:
        ValueError: a file cannot be written.
    """
    files = [workdir / TRIALS, workdir / BEST]
    write_text(files[0], csv_text(frame))
    text = pprint.pformat(values, width=98, sort_dicts=False)
    write_text(files[1], _CONFIG.format(title=title, name=files[1], values=text))
    return files
