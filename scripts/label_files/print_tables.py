"""Prints what is printed for each label file, and what deep images become: tables of docs/data.md.

python scripts/label_files/print_tables.py [--write docs/data.md]
"""

import argparse
import re
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from label_files import Layout, printed
from public_layouts import LAYOUTS
from reported_cases import CASES


def table(layouts: Iterable[Layout]) -> str:
    """Returns a table in Markdown: the layout, the options, and what is printed."""
    lines = ["| label file | options | printed |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for i, layout in enumerate(layouts):
            file = f", `{layout.file}`" if layout.file not in ("", "labels.csv") else ""
            options = f"`{layout.command}`" if layout.options else "–"
            text = printed(layout, Path(folder, str(i)))
            cells = [f"{layout.name}{file}", options, text]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def deep_images() -> str:
    """Returns the table of images; its module needs pydicom and tifffile."""
    from deep_images import depth_table

    return depth_table()


TABLES = {
    "public layouts": partial(table, LAYOUTS),
    "reported cases": partial(table, CASES),
    "deep images": deep_images,
}


def replaced(page: str) -> str:
    """Returns a page whose tables between their marks are new."""
    for name, make in TABLES.items():
        mark, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"(?<={re.escape(mark)}\n).*(?={re.escape(end)})", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no {mark} and {end}; add them")
        new = make()
        page = pattern.sub(lambda _, new=new: f"\n{new}\n\n", page)
    return page


def main() -> None:
    """Prints the tables, or writes them to a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page to change")
    options = parser.parse_args()
    if options.write:
        options.write.write_text(replaced(options.write.read_text("utf-8")), "utf-8")
        return
    for name, make in TABLES.items():
        print(f"{name}\n\n{make()}\n")


if __name__ == "__main__":
    main()
