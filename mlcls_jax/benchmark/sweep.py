"""A benchmark that is repeated for several values of a config field, to find the fastest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from mlcls_jax import cli
from mlcls_jax.benchmark.compiled_steps import DoesNotFitError
from mlcls_jax.benchmark.report import to_json
from mlcls_jax.benchmark.results import Figures
from mlcls_jax.options.benchmark import Sweep
from mlcls_jax.system.console import console, one_line, print_table


@dataclass(frozen=True)
class Row:
    """The result for one value of a sweep.

    Attributes:
        value: of the field.
        figures: results; None if the memory was too small.
        reason: why there are no results.
    """

    value: str
    figures: Figures | None
    reason: str = ""


def run_sweep(sweep: Sweep, measure_value: Callable[[str], Figures]) -> list[Row]:
    """Returns one row per value.

    Args:
        sweep: the field and its values.
        measure_value: runs the benchmark for a value.
    """
    return [_row(value, measure_value) for value in sweep.values]


def best(rows: list[Row]) -> Row | None:
    """Returns the row with the highest rate; None if no value had enough memory."""
    return max(
        (row for row in rows if row.figures),
        key=lambda row: row.figures.images_per_second if row.figures else 0.0,
        default=None,
    )


def print_sweep(sweep: Sweep, rows: list[Row]) -> None:
    """Prints a table of images/s per value, and the override for the best value."""
    names = next(([p.name for p in row.figures.programs] for row in rows if row.figures), [])
    table = [
        [row.value, *_rates(row.figures), f"{row.figures.images_per_second:.1f}", _memory(row)]
        if row.figures
        else [row.value, *("" for _ in names), "", "out of memory"]
        for row in rows
    ]
    columns = [sweep.field, *names, "run", "memory per device"]
    print_table("images/s", columns, table)
    for row in rows:
        if row.reason:
            console.print(f"{sweep.field}={row.value}: {row.reason}")
    if winner := best(rows):
        console.print(f"Best: {sweep.override(winner.value)}")


def sweep_json(sweep: Sweep, rows: list[Row]) -> dict[str, Any]:
    """Returns the sweep as JSON: field, one entry per value, and the best value or null."""
    winner = best(rows)
    return {
        "sweep": sweep.field,
        "rows": [
            {
                "value": row.value,
                "out_of_memory": row.reason or None,
                "result": to_json(row.figures) if row.figures else None,
            }
            for row in rows
        ],
        "best": winner.value if winner else None,
    }


def _row(value: str, measure_value: Callable[[str], Figures]) -> Row:
    """Returns the row of a value; running out of memory is not an error."""
    try:
        return Row(value, measure_value(value))
    except DoesNotFitError as error:
        return Row(value, None, str(error))
    except jax.errors.JaxRuntimeError as error:
        if not cli.out_of_memory(error):
            raise
        return Row(value, None, one_line(error, limit=200))


def _rates(figures: Figures) -> list[str]:
    """Returns images/s per program: end to end if measured, otherwise of the step alone."""
    times = [program.train or program.step for program in figures.programs]
    return [f"{figures.batch_size / time.median:.1f}" if time else "" for time in times]


def _memory(row: Row) -> str:
    """Returns the memory of the program that needs the most."""
    programs = row.figures.programs if row.figures else []
    most = max((program.cost.memory.peak for program in programs), default=0)
    return f"{most / 1e9:.2f} GB" if most else ""
