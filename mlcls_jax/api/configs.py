"""Configs in Python: by name, with sections, single fields, paths and short names."""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mlcls_jax.config import Config, Data
from mlcls_jax.config.aliases import ALIASES
from mlcls_jax.config.checks import validate
from mlcls_jax.config.loading import base_config, with_overrides
from mlcls_jax.config.recipes import with_fields
from mlcls_jax.config.schema import PATHS
from mlcls_jax.config.serialization import flatten_fields, with_present_names
from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.run.checkpoint_integrity import has_run
from mlcls_jax.run.workdir import FRAMES
from mlcls_jax.system.bucket import address_of
from mlcls_jax.system.files import write_text

SECTIONS = {entry.name for entry in dataclasses.fields(Config)}
NESTED = {name for name in SECTIONS if dataclasses.is_dataclass(getattr(Config(), name))}
SHORT = {alias.name: alias for alias in ALIASES}


def config(name: str | Path = "default", **fields: Any) -> Config:
    """Returns a config by name or from a file, with some fields set.

    Of a section, the fields that differ from their defaults are set; all others keep the values of
    the named config.  A path sets any value.

    Args:
        name: such as "b5" or "lite0", or the path of a config file.
        fields: sections, such as data=Data(csv="labels.csv", images="photos") or a dictionary;
            single fields, such as seed=1; paths, such as **{"data.batch_size": 16}; and the short
            options of the command: csv, images, batch_size, epochs and lr.

    Raises:
        ValueError: the config does not exist, or a field is unknown or has an impossible value.
    """
    base = base_config(str(name))
    sections = {field: value for field, value in fields.items() if field in SECTIONS}
    for field, value in sections.items():
        base = dataclasses.replace(base, **{field: _merged(field, getattr(base, field), value)})
    short = {path: value for path, value in fields.items() if path in SHORT}
    rest = {path: value for path, value in fields.items() if path not in SECTIONS | set(SHORT)}
    for option, value in short.items():
        values = [value] if option == "epochs" and not isinstance(value, list | tuple) else value
        rest |= SHORT[option].fields(values, base.phases)
    return with_frames(base, rest)


def with_frames(base: Config, fields: Mapping[str, Any]) -> Config:
    """Returns a checked config with fields set, whose label files may be DataFrames.

    Args:
        base: it is not changed.
        fields: {path: value}.

    Raises:
        ValueError: a field is unknown or has an impossible value.
    """
    fields = {path: _plain(value) for path, value in fields.items()}
    base = with_fields(base, {f"data.{name}": _plain(getattr(base.data, name)) for name in PATHS})
    given = {f"data.{name}": getattr(base.data, name) for name in FRAMES} | fields
    frames = {
        path: given[path]
        for path in (f"data.{name}" for name in FRAMES)
        if isinstance(given[path], pd.DataFrame)
    }
    plain = with_fields(base, dict.fromkeys(frames, "DataFrame"))
    known = flatten_fields(dataclasses.asdict(plain))
    exact, text = {}, []
    for path, value in fields.items():
        if path in frames:
            continue
        if path in known and not isinstance(value, str):
            exact[path] = value
        else:
            text.append(f"--config.{path}={value}")
    try:
        result = with_fields(with_overrides(plain, text), exact)
        validate(result)
    except ValueError as error:
        raise ValueError(in_python(str(error))) from None
    return with_fields(result, frames)


def in_python(message: str) -> str:
    """Returns an error message that names fields as Python writes them.

    >>> in_python("--config.batch: no such field; write --config.data.batch_size=8")
    'batch: no such field; write data.batch_size=8'
    """
    return re.sub(r"--(?:config\.)?(?=\w)", "", message)


def written_labels(data: Data, workdir: Path, accept_changed: bool = False) -> dict[str, str]:
    """Writes DataFrames of labels to the workdir, and returns the fields that name the files.

    Args:
        data: the section of the config, whose label files may be DataFrames.
        workdir: of the run.
        accept_changed: whether a run that is there continues with other labels.

    Raises:
        ValueError: the workdir holds a run with other labels.
    """
    paths: dict[str, str] = {}
    for field, name in FRAMES.items():
        frame = getattr(data, field)
        if not isinstance(frame, pd.DataFrame):
            continue
        path, text = workdir / name, labels_of_frame(frame)
        paths[f"data.{field}"] = address_of(path)
        differs = path.is_file() and path.read_text("utf-8") != text
        if differs and has_run(workdir) and not accept_changed:
            raise ValueError(
                f"data.{field}: the DataFrame differs from {path}, with which the run in {workdir} "
                "began; choose another workdir, or pass accept_changed_data=True"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return paths


def labels_of_frame(frame: pd.DataFrame) -> str:
    """Returns a DataFrame as a CSV of labels: bools as 0 and 1, a named index as a column."""
    if frame.index.name:
        frame = frame.reset_index()
    flags = [name for name in frame.columns if pd.api.types.is_bool_dtype(frame[name])]
    return csv_text(frame.astype(dict.fromkeys(flags, "Int8")))


def _merged(name: str, section: Any, given: Any) -> Any:
    """Returns a section with the fields of another one of its type that have no default value.

    Raises:
        ValueError: `given` is neither of its type nor a dictionary of its fields.
    """
    if name not in NESTED:
        return given
    kind = type(section).__name__
    known = {entry.name for entry in dataclasses.fields(section)}
    if isinstance(given, Mapping):
        given = with_present_names(name, given)
    if isinstance(given, Mapping) and set(given) <= known:
        return dataclasses.replace(section, **given)
    if type(given) is not type(section):
        raise ValueError(
            f"config: {name} is a {type(given).__name__}; pass mlcls_jax.{kind}(...) or a "
            f"dictionary of its fields: {', '.join(sorted(known))}"
        )
    default = type(section)()
    changed = {
        field: getattr(given, field)
        for field in known
        if not _equal(getattr(given, field), getattr(default, field))
    }
    return dataclasses.replace(section, **changed)


def _equal(a: Any, b: Any) -> bool:
    """Returns whether two values are equal; a DataFrame is equal to nothing."""
    return not isinstance(a, pd.DataFrame) and a == b


def _plain(value: Any) -> Any:
    """Returns a path as text, and any other value as it is."""
    return os.fspath(value) if isinstance(value, Path) else value
