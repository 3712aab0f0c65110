"""Loads a config by name or from a file, and applies command-line overrides to it."""

import ast
import copy
import difflib
import re
import warnings
from pathlib import Path
from traceback import extract_tb

from absl import flags
from ml_collections import config_flags

from mlcls_jax.config.checks import validate
from mlcls_jax.config.fields import split_overrides
from mlcls_jax.config.named import config_folder, config_names, short_name
from mlcls_jax.config.schema import Config, PosWeight
from mlcls_jax.config.serialization import RENAMED, renaming_hint
from mlcls_jax.system.console import one_line


class _PosWeightParser(flags.ArgumentParser):
    """Parses a number or a list of numbers; any other text is returned for `validate` to check."""

    def parse(self, argument):
        try:
            return ast.literal_eval(argument) if isinstance(argument, str) else argument
        except (ValueError, SyntaxError):
            return argument


config_flags.register_flag_parser_for_type(PosWeight, _PosWeightParser())


def load_config(name: str, overrides: list[str]) -> Config:
    """Loads a config, applies overrides, and checks the result.

    Args:
        name: name or path of the config (see `find_config`); "" for the default config.
        overrides: command-line arguments such as "--config.data.batch_size=64".

    Raises:
        ValueError: the config does not exist or has an error, or a field is unknown, has a wrong
            type or an impossible value.
    """
    return with_overrides(base_config(name), overrides)


def base_config(name: str) -> Config:
    """Returns a config by name, which overrides may have to complete: it is not checked.

    Args:
        name: as in `load_config`.

    Raises:
        ValueError: the config does not exist or has an error.
    """
    return _read(find_config(name)) if name else Config()


def with_overrides(base: Config, overrides: list[str]) -> Config:
    """Returns a checked copy of a config with command-line overrides.

    Raises:
        ValueError: as `load_config`.
    """
    config = copy.deepcopy(base)
    given = split_overrides(overrides, config)
    values = flags.FlagValues()
    argv = ["train", *given]
    try:
        holder = config_flags.DEFINE_config_dataclass(
            "config", config, flag_values=values, sys_argv=argv
        )
        values(argv)
        config = holder.value
    except Exception as error:  # absl and ml_collections raise many types
        raise ValueError(f"config: {one_line(error)}") from error
    validate(config)
    return config


def find_config(name: str) -> str:
    """Returns the path of a config: a file, or one that comes with the package.

    Args:
        name: path of a file, or a name such as "b5".  "configs/b5.py" is found outside a checkout
            as well.

    Raises:
        ValueError: there is no such config; names the nearest.
    """
    if Path(name).is_file():
        return name
    names, path = config_names(), Path(name)
    short = short_name(path.stem)
    if str(path.parent) in (".", "configs") and path.stem in names and path.suffix in ("", ".py"):
        return str(config_folder() / f"{path.stem}.py")
    files = [str(file) for file in path.parent.glob("*.py")] if path.suffix == ".py" else []
    near = (
        [known for known in names if short and known.startswith(short)][:1]
        or difflib.get_close_matches(name, files, 1)
        or difflib.get_close_matches(path.stem.lower(), names, 1, 0.5)
    )
    hint = f"the nearest is {near[0]}; " if near else ""
    raise ValueError(
        f"--config {name}: no such file, and no config has this name; {hint}"
        f"names are {', '.join(names)}"
    )


def _read(path: str) -> Config:
    """Returns what get_config() of a file returns.

    Raises:
        ValueError: the file has an error, or returns something else than a Config.
    """
    values = flags.FlagValues()
    argv = ["train", f"--config={path}"]
    try:
        with warnings.catch_warnings():  # ml_collections imports the file by a deprecated function
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            holder = config_flags.DEFINE_config_file(
                "config", flag_values=values, sys_argv=argv, lock_config=False
            )
            values(argv)
        config = holder.value
    except Exception as error:  # a config file is Python and can raise anything
        raise ValueError(_explain(error, path)) from error
    if not isinstance(config, Config):
        raise ValueError(
            f"{path}: get_config() returns {type(config).__name__}; it must return a "
            "mlcls_jax.config.Config"
        )
    return config


def _explain(error: Exception, path: str) -> str:
    """Describes an error of a config file in one line."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == path]
    reason = f"{type(error).__name__}: {one_line(error)}"
    if "Traceback" in str(error):  # absl wraps a TypeError of the file as text
        lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', str(error))
        text = str(error).rstrip().splitlines()
        last = max((i for i, line in enumerate(text) if line.startswith(" ")), default=-1)
        reason = " ".join(" ".join(text[last + 1 :]).split())
    line = f" line {lines[-1]}" if lines else ""
    unknown = re.findall(r"argument '(\w+)'", reason)
    hint = renaming_hint([path for path in RENAMED if path.rpartition(".")[2] in unknown])
    return f"{path}{line}: {reason}{hint}"
