"""Hooks of MkDocs: pages that are made from the code, and links to files outside docs/."""

import re
from pathlib import Path
from typing import Any

import command_reference
import config_reference
from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

import mlcls_jax

OUTSIDE = re.compile(r"\[([^\]]*)\]\((\.\./(?!docs/)[^)]*)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made from the code."""
    pages = {
        "config": config_reference.page,
        "commands": command_reference.page,
        "api": api_page,
    }
    for name, make in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links to files outside docs/, which the site does not have, by their texts."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    return OUTSIDE.sub(_text, markdown)


def api_page() -> str:
    """Returns the page of the API, which mkdocstrings fills from the docstrings."""
    modules = mlcls_jax._MODULES
    names = [f"mlcls_jax.{module}.{name}" for module in modules for name in modules[module]]
    shown = [name for name in names if not name.startswith("mlcls_jax.config.")]
    parts = [
        "# The Python API",
        "`import mlcls_jax as ml`, then `ml.config`, `ml.train` and so on. The classes of the "
        "config, such as `ml.Data`, have a [page of their own](config.md). "
        "[API](../api.md) explains the rest by examples.",
    ]
    for name in shown:
        parts.append(f"::: {name}\n    options:\n      heading: ml.{name.rpartition('.')[2]}")
    return "\n\n".join(parts) + "\n"


def _text(link: re.Match) -> str:
    text, target = link.groups()
    return (
        text if Path(target).suffix != ".md" or text.startswith("`") else f"{text} (`{target[3:]}`)"
    )
