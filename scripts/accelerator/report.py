"""Makes docs/accelerators.md from the results of check.sh.

    python scripts/accelerator/report.py                                   # of docs/accelerators
    python scripts/accelerator/report.py --results accelerator --page accelerator/page.md

What was not measured is named as such, with the reason if there is one.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from part_record import read
from report_tables import SECTIONS, table

DOCS = Path(__file__).parents[2] / "docs"
PARTS = ("hardware", "correctness", "speed", "profile", "kernels", "input")
HEAD = """# Accelerators

What the trainer does on a GPU: whether it computes what the CPU computes, how fast it is next to
timm and Keras, where the time goes, and which kernels are the fastest. One command measures all of
it in a quarter of an hour:

<!-- not run: needs a GPU -->
```bash
scripts/accelerator/check.sh --out docs/accelerators
python scripts/accelerator/report.py
```

The machine needs JAX with a GPU, what
[the README of the folder](../scripts/accelerator/README.md) names, and no network. Every part has a
time limit of its own and stores each result as soon as it has it.
"""
ABSENT = """
**Nothing here has been measured on a GPU yet.** The tables name what the command measures.
"""
REHEARSED = """
These are the results of a rehearsal on a CPU, with tiny networks. They say nothing about a GPU.
"""


def page(results: dict[str, dict[str, Any]], rehearsal: dict[str, dict[str, Any]]) -> str:
    """Returns the page in Markdown.

    Args:
        results: what each part stored, by its name.
        rehearsal: the same for a rehearsal, which gets a section of its own.
    """
    parts = [HEAD.strip()]
    if not any(results.values()):
        parts.append(ABSENT.strip())
    if any(result.get("rehearsal") for result in results.values()):
        parts.append(REHEARSED.strip())
    for name, (title, text, make) in SECTIONS.items():
        result = results.get(name, {})
        values, reasons = result.get("values", {}), result.get("not_measured", {})
        parts += [f"## {title}", text, make(values, reasons)]
    if any(rehearsal.values()):
        parts += ["## The rehearsal", REHEARSAL.strip(), rehearsal_table(rehearsal)]
    return "\n\n".join(part for part in parts if part) + "\n"


REHEARSAL = """
`--rehearse` runs every part on the CPU with a tiny network, and Pallas kernels in interpret mode,
so that the day of a GPU brings no surprise. Its last log, on two cores that other work kept busy:

<!-- not run: takes minutes -->
```bash
scripts/accelerator/check.sh --rehearse --out rehearsal
```
"""


def rehearsal_table(rehearsal: dict[str, dict[str, Any]]) -> str:
    """Returns a row per part: results, what was not measured and why, and the seconds."""
    rows = []
    for name, result in rehearsal.items():
        if result:
            reasons: dict[str, list[str]] = {}
            for planned, reason in result["not_measured"].items():
                reasons.setdefault(reason, []).append(planned)
            absent = "; ".join(f"{len(found)} × {reason}" for reason, found in reasons.items())
            count, seconds = len(result["values"]), result["seconds"]
            rows.append([name, f"{count}", absent or "–", f"{seconds:.0f}"])
    return table(["part", "results", "not measured", "seconds"], rows)


def read_all(folder: Path | None, parts: Iterable[str] = PARTS) -> dict[str, dict[str, Any]]:
    """Returns what each part stored in a folder."""
    return {part: read(folder, part) if folder else {} for part in parts}


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--results", type=Path, default=DOCS / "accelerators", help="folder of the results")
    add("--rehearsal", type=Path, help="folder of the results of a rehearsal")
    add("--page", type=Path, default=DOCS / "accelerators.md", help="file to write")
    options = parser.parse_args()
    text = page(read_all(options.results), read_all(options.rehearsal))
    options.page.write_text(text, encoding="utf-8")
    print(f"wrote {options.page}")


if __name__ == "__main__":
    main()
