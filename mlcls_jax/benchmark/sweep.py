"""The same benchmark over values of a field of the config, and which of them is the fastest."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from mlcls_jax import cli
from mlcls_jax.benchmark.compiled_steps import DoesNotFitError
from mlcls_jax.benchmark.report import to_json
from mlcls_jax.benchmark.results import Figures
from mlcls_jax.config import Config
from mlcls_jax.system.console import console, one_line, print_table

_SECTIONS = ("data", "augment", "model")


@dataclass(frozen=True)
class Sweep:
    """field: its path in the config, such as "data.batch_size"; values: as they were written."""

    field: str
    values: tuple[str, ...]

    def override(self, value: str) -> str:
        """The command-line option that sets the field."""
        return f"--config.{self.field}={value}"


@dataclass(frozen=True)
class Row:
    """figures of a value, or the reason why there are none: a lack of memory."""

    value: str
    figures: Figures | None
    reason: str = ""


def parse_sweep(text: str) -> Sweep:
    """Reads "batch_size=16,32,64"; the field may be written as a path, "data.batch_size".

    Raises:
        ValueError: no field and values, or a field that data, augment and model do not have.
    """
    name, _, listed = text.partition("=")
    values = tuple(value.strip() for value in listed.split(","))
    if not name or not all(values):
        raise ValueError(f"--sweep {text}: write it like batch_size=16,32,64")
    config = Config()
    fields = [
        f"{section}.{field.name}"
        for section in _SECTIONS
        for field in dataclasses.fields(getattr(config, section))
    ]
    found = [field for field in fields if name in (field, field.partition(".")[2])]
    if not found:
        raise ValueError(
            f"--sweep {name}: the config has no such field; among others there are batch_size, "
            "image_size, compute_dtype and variant"
        )
    return Sweep(found[0], values)


def run_sweep(sweep: Sweep, measured: Callable[[str], Figures]) -> list[Row]:
    """One row per value.  measured: the figures of a value."""
    return [_row(value, measured) for value in sweep.values]


def best(rows: list[Row]) -> Row | None:
    """The row with the most images/s; None where no value had enough memory."""
    return max(
        (row for row in rows if row.figures),
        key=lambda row: row.figures.images_per_second if row.figures else 0.0,
        default=None,
    )


def print_sweep(sweep: Sweep, rows: list[Row]) -> None:
    """A table of images/s per value, and the best of them."""
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
    """Field, one entry per value, and the best value or null."""
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


def _row(value: str, measured: Callable[[str], Figures]) -> Row:
    try:
        return Row(value, measured(value))
    except DoesNotFitError as error:
        return Row(value, None, str(error))
    except jax.errors.JaxRuntimeError as error:
        if not cli.out_of_memory(error):
            raise
        return Row(value, None, one_line(error, limit=200))


def _rates(figures: Figures) -> list[str]:
    """End to end where that was measured, else of the step alone; of evaluation always alone."""
    times = [program.train or program.step for program in figures.programs]
    return [f"{figures.batch_size / time.median:.1f}" if time else "" for time in times]


def _memory(row: Row) -> str:
    """Of the program that needs the most."""
    programs = row.figures.programs if row.figures else []
    most = max((program.cost.memory.peak for program in programs), default=0)
    return f"{most / 1e9:.2f} GB" if most else ""
