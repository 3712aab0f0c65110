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
    """A number or a list of numbers; what is neither stays text, which `validate` judges."""

    def parse(self, argument):
        try:
            return ast.literal_eval(argument) if isinstance(argument, str) else argument
        except (ValueError, SyntaxError):
            return argument


config_flags.register_flag_parser_for_type(PosWeight, _PosWeightParser())


def load_config(path: str, overrides: list[str]) -> Config:
    """The Config of a config file with `--config.field=value` overrides, checked.

    Raises:
        ValueError: no such file, an error in it, an unknown field, a value of the wrong type, or
            an impossible one.
    """
    if not Path(path).is_file():
        raise ValueError(f"--config {path}: no such file; the configs/ folder has one per variant")
    values = flags.FlagValues()
    argv = ["train", f"--config={path}", *overrides]
    try:
        holder = config_flags.DEFINE_config_file(
            "config", flag_values=values, sys_argv=argv, lock_config=False
        )
        rest = values(argv)[1:]
        config = holder.value
    except Exception as error:  # a config file is Python: anything can come out of it
        raise ValueError(_explain(error, path, overrides)) from error
    if rest:
        raise ValueError(f"{rest[0]!r} is no option; see --help")
    if not isinstance(config, Config):
        raise ValueError("config: get_config() of the file must return a mlcls_jax.config.Config")
    validate(config)
    return config


def _explain(error: Exception, path: str, overrides: list[str]) -> str:
    """Describes an error of a config file or of an override in one line."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == path]
    reason = f"{type(error).__name__}: {one_line(error)}"
    if "Traceback" in str(error):  # a TypeError of the file, as text in an error of absl
        lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', str(error))
        reason = str(error).strip().splitlines()[-1]
    if lines or isinstance(error, SyntaxError | ImportError):
        line = f" line {lines[-1]}" if lines else ""
        hint = renaming_hint("evaluation", re.findall(r"\w+", reason))
        return f"{path}{line}: {reason}{hint}"
    if isinstance(error, KeyError | IndexError | AttributeError):
        given = " ".join(" ".join(overrides).split())
        hint = renaming_hint("evaluation", re.findall(r"--config\.evaluation\.(\w+)", given))
        return f"config: no such field in {given}: {one_line(error)}{hint}"
    return f"config: {one_line(error)}"
