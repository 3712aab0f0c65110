"""Makes the page with every field of the config, from the comments in config/schema.py."""

import ast
import dataclasses
import re
from dataclasses import dataclass
from typing import Any, get_args

from mlcls_jax.config import schema

INTRODUCTION = """# Every field of the config

A config file sets these in Python ([training](../training.md)). A command overrides single fields:

```bash
mlcls-jax train --config lite0 --csv labels.csv --images photos --config.data.batch_size=64
```

Fields whose description begins with a choice, such as "**coco**: ", are used by that choice alone.
"""


@dataclass(frozen=True)
class Field:
    """One field of a section.

    Attributes:
      name: the field.
      values: the choices or the type, and the default, as Markdown.
      text: what the comments in the source say, as Markdown.
    """

    name: str
    values: str
    text: str


def page() -> str:
    """Returns the page as Markdown: the fields of Config, then a part for each of its sections."""
    parts = [INTRODUCTION, "## General", _table(schema.Config)]
    for field in dataclasses.fields(schema.Config):
        if dataclasses.is_dataclass(section := field.default_factory):
            parts += _section(field.name, section)
    parts += _section("phases[0]", schema.Phase) + _section("phases[0].groups[0]", schema.Group)
    return "\n\n".join(parts) + "\n"


def fields_of(section: type) -> list[Field]:
    """Returns the fields of a section of the config; sections inside it are left out.

    Raises:
      ValueError: a field has no comment.
    """
    lines = _source().splitlines()
    (node,) = (
        node
        for node in ast.parse(_source()).body
        if isinstance(node, ast.ClassDef) and node.name == section.__name__
    )
    found = []
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(field.default_factory) or field.name in ("phases", "groups"):
            continue
        (assigned,) = (
            x
            for x in node.body
            if isinstance(x, ast.AnnAssign) and getattr(x.target, "id", "") == field.name
        )
        text = _comment(lines, assigned)
        if not text:
            raise ValueError(f"{section.__name__}.{field.name} has no comment in schema.py")
        found.append(Field(field.name, _values(field, assigned), text))
    return found


def _section(path: str, section: type) -> list[str]:
    return [f"## {path}", (section.__doc__ or "").strip(), _table(section)]


def _table(section: type) -> str:
    rows = ["| field | values | meaning |", "|---|---|---|"]
    for field in fields_of(section):
        cells = f"`{field.name}`", field.values, field.text
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows)


def _source() -> str:
    assert schema.__file__
    with open(schema.__file__, encoding="utf-8") as file:
        return file.read()


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    """Returns the comments above a field and after it, as one Markdown text."""
    above = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().removeprefix("#").strip())
    after = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :]
    return _markdown(" ".join([*above, after.strip().removeprefix("#").strip()]).strip())


def _markdown(text: str) -> str:
    """Marks what a comment quotes, and the choices that its sentences begin with, as code."""
    parts = re.split(r'("[^"]*"|`[^`]*`)', text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"`{part.strip('`')}`"
        else:
            part = re.sub(r"([*_])", r"\\\1", part)
            parts[i] = re.sub(r"(^|[.;]  ?)(\w+(?:, \w+)*)(?=: )", r"\1**\2**", part)
    text = "".join(parts)
    return f"{text[:1].upper()}{text[1:]}" + "." * (text[-1:] not in ".")


def _values(field: dataclasses.Field, node: ast.AnnAssign) -> str:
    if choices := field.metadata.get("choices"):
        default, *others = (f"`{choice}`" if choice else '`""`' for choice in choices)
        return ", ".join([f"{default} (default)", *others])
    kind = ast.unparse(node.annotation)
    kind = get_args(schema.PosWeight)[1] if kind == "PosWeight" else kind
    if field.default is dataclasses.MISSING:
        return f"{kind}, without a default"
    value: Any = field.default
    return f"{kind}, default " + (f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`")
