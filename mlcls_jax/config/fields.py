"""Fields of a config by path, such as "phases[1].duration", and the nearest of a wrong one."""

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any

from mlcls_jax.config.foreign_options import advice
from mlcls_jax.config.named import config_names
from mlcls_jax.config.schema import Config
from mlcls_jax.config.serialization import (
    FORMER_VALUES,
    RENAMED,
    flatten_fields,
    renaming_hint,
)

PREFIX = "--config."
_OVERRIDE = re.compile(r"--?(?P<off>no)?config\.(?P<path>[^=]*)(?P<value>=.*)?", re.DOTALL)


def split_overrides(overrides: list[str], config: Any) -> list[str]:
    """Returns overrides in the form "--config.path=value", after checking that each field exists.

    A former field is replaced by the present one.

    Args:
        overrides: command-line arguments; a value may be an argument of its own.
        config: the config that they change.

    Raises:
        ValueError: an argument is not an override, or its field does not exist; names the nearest.
    """
    result, rest = [], list(overrides)
    while rest:
        argument = rest.pop(0)
        match = _OVERRIDE.fullmatch(argument)
        if not match:
            raise ValueError(not_an_option(argument))
        path, value = match["path"], match["value"]
        if match["off"]:
            value = "=false"
        elif value is None and rest and not rest[0].startswith("--"):
            value = f"={rest.pop(0)}"
        if path in RENAMED and path in FORMER_VALUES:
            path, value = _present(path, value or "=true")
        if problem := field_problem(config, path, value or ""):
            raise ValueError(f"config: {problem}")
        if value is None and not isinstance(get_field(config, path), bool):
            raise ValueError(f"config: {PREFIX}{path} needs a value, as in {PREFIX}{path}=VALUE")
        result.append(f"{PREFIX}{path}{value or '=true'}")
    return result


def paths_of(overrides: list[str]) -> list[str]:
    """Returns the paths of the fields that overrides set; other arguments are ignored."""
    return [m["path"] for text in overrides if (m := _OVERRIDE.fullmatch(text))]


def not_an_option(argument: str) -> str:
    """Returns the message for an argument that a command does not take, with its likely field."""
    path = Path(argument)
    if path.suffix.lower() == ".csv":
        text = f"labels are named with --csv {quoted(argument)}"
    elif path.is_dir():
        text = f"a folder of images is named with --images {quoted(argument)}"
    elif path.suffix == ".py" or argument in config_names():
        text = f"a config is named with --config {argument}"
    else:
        text = f"a field of the config is set with {PREFIX}FIELD=VALUE"
    return f"{argument!r} is not an option; {text}"


def get_field(config: Any, path: str) -> Any:
    """Returns the value of a field; AttributeError, IndexError or TypeError if there is none."""
    node = config
    for name in path.replace("[", ".").replace("]", "").split("."):
        node = node[int(name)] if name.isdecimal() else getattr(node, name)
    return node


def field_problem(config: Any, path: str, value: str = "") -> str:
    """Returns what is wrong with the path of a field, with the nearest field; "" if it exists.

    Args:
        config: the config.
        path: such as "data.batch_size".
        value: "=" and what the field should be set to, for the message.
    """
    node, known = config, ""
    for part in path.split("."):
        match = re.fullmatch(r"(\w+)((?:\[[^\]]*\])*)", part)
        if isinstance(node, list):
            return f"{PREFIX}{path}: {_entries(known, node)}"
        names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
        if not match or match[1] not in names:
            return _unknown(config, path, value)
        node, known = getattr(node, match[1]), f"{known}.{match[1]}" if known else match[1]
        for index in re.findall(r"\[([^\]]*)\]", match[2]):
            if not isinstance(node, list) or not index.isdecimal() or int(index) >= len(node):
                wrong = f"there is no {known}[{index}]"
                entries = _entries(known, node) if isinstance(node, list) else ""
                return f"{PREFIX}{path}: {wrong}" + (f"; {entries}" if entries else "")
            node, known = node[int(index)], f"{known}[{index}]"
    if isinstance(node, list) and dataclasses.is_dataclass(next(iter(node), None)):
        return f"{PREFIX}{path}: {_entries(known, node)}; set one of their fields"
    if dataclasses.is_dataclass(node):
        fields = [field.name for field in dataclasses.fields(node)]
        return (
            f"{PREFIX}{path}: {known} is a section; set one of its fields {', '.join(fields)}, as "
            f"in {PREFIX}{path}.{fields[0]}=VALUE"
        )
    return ""


def _present(path: str, value: str) -> tuple[str, str]:
    """Returns the present field and value for a former field and "=" with its value.

    Raises:
        ValueError: the value is not understood.
    """
    known = {str(former).lower(): now for former, now in FORMER_VALUES[path].items()}
    given = {"1": "true", "0": "false"}.get(value[1:], value[1:].lower())
    if given not in known:
        choices = " or ".join(f"{PREFIX}{RENAMED[path]}={now}" for now in known.values())
        raise ValueError(f"config: {PREFIX}{path}{value}: no such field; write {choices}")
    return RENAMED[path], f"={known[given]}"


def _entries(path: str, entries: list) -> str:
    """Returns for example "there are phases[0] (head) and phases[1] (finetune)"."""
    names = [
        f"{path}[{i}] ({getattr(entry, 'name', None) or getattr(entry, 'pattern', entry)})"
        for i, entry in enumerate(entries)
    ]
    *others, last = names or ["none"]
    verb = "are" if others else "is"
    return f"there {verb} {' and '.join(filter(None, [', '.join(others), last]))}"


def _unknown(config: Any, path: str, value: str) -> str:
    """Returns a message for a path that names no field."""
    wrong = f"{PREFIX}{path}: no such field"
    leaf = path.rpartition(".")[2]
    if hint := renaming_hint([path]):
        return wrong + hint
    if found := paths_named(config, leaf):
        return f"{wrong}; write {' or '.join(quoted(f'{PREFIX}{p}{value}') for p in found)}"
    if text := advice(leaf, value.removeprefix("=")):
        return f"{wrong}; {text}"
    if near := nearest_path(config, path):
        return f"{wrong}; did you mean {quoted(f'{PREFIX}{near}{value}')}?"
    sections = [field.name for field in dataclasses.fields(config)]
    return f"{wrong}; the config has {', '.join(sections)} (see mlcls_jax/config/schema.py)"


def paths_named(config: Any, name: str) -> list[str]:
    """Returns the paths of the fields with a name; of the phases, only those of the last one."""
    name = name.replace("-", "_").lower()
    paths = [p for p in _paths(config) if re.split(r"[.\]]", p)[-1] == name]
    outside = [path for path in paths if not path.startswith("phases[")]
    last = f"phases[{len(config.phases) - 1}]"
    return outside or [path for path in paths if path.startswith(last)]


def nearest_path(config: Any, path: str) -> str:
    """Returns the path of the field that is most like a wrong one; "" if none is."""
    paths = _paths(config)
    if near := difflib.get_close_matches(path, paths, 1, 0.75):
        return near[0]
    by_leaf = {p.rpartition(".")[2]: p for p in paths}
    leaf = path.rpartition(".")[2].replace("-", "_").lower()
    near = difflib.get_close_matches(leaf, by_leaf, 1, 0.7)
    return by_leaf[near[0]] if near else ""


def quoted(argument: str) -> str:
    """Returns an argument as a shell takes it: in quotes if it has brackets or spaces."""
    return f"'{argument}'" if re.search(r"[^\w./=:,+-]", argument) else argument


def default_paths(name: str) -> list[str]:
    """Returns the paths of the fields of the default config with a name (see `paths_named`)."""
    return paths_named(Config(), name)


def default_leaves() -> list[str]:
    """Returns the names of all fields of the default config, without their sections."""
    return [path.rpartition(".")[2] for path in _paths(Config())]


def _paths(config: Any) -> list[str]:
    return list(flatten_fields(dataclasses.asdict(config)))
