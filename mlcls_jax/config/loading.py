"""Loads a config file and applies command-line overrides to it."""

import ast
import re
from pathlib import Path
from traceback import extract_tb

from absl import flags
from ml_collections import config_flags

from mlcls_jax.config.checks import validate
from mlcls_jax.config.schema import Config, PosWeight
from mlcls_jax.config.serialization import renaming_hint
from mlcls_jax.system.console import one_line


class _PosWeightParser(flags.ArgumentParser):
    """Parses a number or a list of numbers; any other text is returned for `validate` to check."""

    def parse(self, argument):
        try:
            return ast.literal_eval(argument) if isinstance(argument, str) else argument
        except (ValueError, SyntaxError):
            return argument


config_flags.register_flag_parser_for_type(PosWeight, _PosWeightParser())


def load_config(path: str, overrides: list[str]) -> Config:
    """Loads a config file, applies overrides, and checks the result.

    Args:
        path: of the config file; "" for the default config.
        overrides: command-line arguments such as "--config.data.batch_size=64".

    Raises:
        ValueError: the file does not exist or has an error, or a field is unknown, has a wrong
            type or an impossible value.
    """
    if path and not Path(path).is_file():
        raise ValueError(f"--config {path}: no such file; the folder configs/ has one per variant")
    values = flags.FlagValues()
    argv = ["train", *([f"--config={path}"] if path else []), *overrides]
    try:
        if path:
            holder = config_flags.DEFINE_config_file(
                "config", flag_values=values, sys_argv=argv, lock_config=False
            )
        else:
            holder = config_flags.DEFINE_config_dataclass(
                "config", Config(), flag_values=values, sys_argv=argv
            )
        rest = values(argv)[1:]
        config = holder.value
    except Exception as error:  # a config file is Python and can raise anything
        raise ValueError(_explain(error, path, overrides)) from error
    if rest:
        raise ValueError(f"{rest[0]!r} is not an option; see --help")
    if not isinstance(config, Config):
        raise ValueError(
            f"{path}: get_config() returns {type(config).__name__}; it must return a "
            "mlcls_jax.config.Config"
        )
    validate(config)
    return config


def _explain(error: Exception, path: str, overrides: list[str]) -> str:
    """Describes an error of a config file or of an override in one line."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == path]
    reason = f"{type(error).__name__}: {one_line(error)}"
    if "Traceback" in str(error):  # absl wraps a TypeError of the file as text
        lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', str(error))
        text = str(error).rstrip().splitlines()
        last = max((i for i, line in enumerate(text) if line.startswith(" ")), default=-1)
        reason = " ".join(" ".join(text[last + 1 :]).split())
    if lines or isinstance(error, SyntaxError | ImportError):
        line = f" line {lines[-1]}" if lines else ""
        hint = renaming_hint(re.findall(r"argument '(\w+)'", reason))
        return f"{path}{line}: {reason}{hint}"
    if isinstance(error, KeyError | IndexError | AttributeError):
        given = " ".join(" ".join(overrides).split())
        hint = renaming_hint(re.findall(r"--config\.evaluation\.(\w+)", given))
        return f"config: {given} names no such field: {one_line(error)}{hint}"
    return f"config: {one_line(error)}"
