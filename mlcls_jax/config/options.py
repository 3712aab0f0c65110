"""Options of the commands: the parser, whose errors are one line, and those that several share.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from mlcls_jax.config.fields import PREFIX, default_leaves, default_paths, quoted
from mlcls_jax.config.foreign_options import advice, known_options
from mlcls_jax.system.command_line import USER_ERROR, error_line

# How other trainers call what is --workdir here, in the commands that read a run.
RUN_NAMES = (
    *("model", "run", "model-path", "model-dir", "weights", "load", "resume", "ckpt"),
    *("checkpoint-path", "checkpoint-dir", "run-dir", "log-dir", "m"),
)

_SPACE = "\0"  # stands for a space; arguments cannot contain it


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the nearest option.

    The arguments that an error quotes are escaped, because they may be commands to a terminal.  A
    parser with an option --config takes fields of the config as well.
    """

    def parse_known_args(self, args=None, namespace=None):
        """Refuses all unknown options at once; argparse would first report what is missing."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        answers = []
        for i, argument in enumerate(given[:end]):
            if self._is_unknown(argument):
                value = given[i + 1] if i + 1 < end else ""
                answers.append(self._advice(argument, "" if value.startswith("-") else value))
        if answers:
            self._exit("; ".join(answers))
        # argparse takes an unknown option with a space for the value of the option before it
        for i, argument in enumerate(given[:end]):
            if self._is_field(argument):
                given[i] = argument.replace(" ", _SPACE)
        namespace, rest = super().parse_known_args(given, namespace)
        return namespace, [argument.replace(_SPACE, " ") for argument in rest]

    def error(self, message: str) -> NoReturn:
        """Prints the message as one line, and exits with code 2."""
        self._exit(f"{message}; see {self.prog} --help")

    def _exit(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"error: {error_line(ValueError(message))}\n")

    @property
    def _takes_fields(self) -> bool:
        return "--config" in self._option_string_actions

    def _is_field(self, argument: str) -> bool:
        return self._takes_fields and bool(re.match(r"--?(no)?config\.", argument))

    def _is_unknown(self, argument: str) -> bool:
        name = argument.split("=")[0]
        if not name.startswith("-") or name == "-" or re.match(r"-[\d.]", name):
            return False
        if self._is_field(argument):
            return False
        known = self._option_string_actions
        if self.allow_abbrev and name.startswith("--"):
            return not any(option.startswith(name) for option in known)
        return name not in known

    def _advice(self, argument: str, following: str) -> str:
        """Returns the message for an unknown option."""
        option, equals, value = argument.partition("=")
        value = value if equals else following
        wrong = f"{option} is not an option"
        known = [name for name in self._option_string_actions if name.startswith("--")]
        options = [name for name in known if name != "--help"]
        name = option.lstrip("-").replace("_", "-").lower()
        if f"--{name}" in options:
            return f"{wrong}; write --{name}"
        if self._takes_fields and (text := _field_advice(name, value, options)):
            return f"{wrong}; {text}"
        if not self._takes_fields and "--workdir" in options and name in RUN_NAMES:
            return f"{wrong}; write --workdir RUN, where RUN is the folder of a run"
        if near := difflib.get_close_matches(f"--{name}", options, 1, 0.6):
            return f"{wrong}; did you mean {near[0]}?"
        return f"{wrong}; {self.prog} has {', '.join(options)}"


def _field_advice(name: str, value: str, options: Sequence[str]) -> str:
    """Returns what to write for an unknown option of a command that takes fields, or ""."""
    text = advice(name, value)
    if text and ("--lr" in options or "--" not in text or PREFIX in text):
        return text
    if paths := default_paths(name):
        return f"write {' or '.join(_override(path, value) for path in paths)}"
    if near := difflib.get_close_matches(f"--{name}", options, 1, 0.75):
        return f"did you mean {near[0]}?"
    known = [*known_options(), *default_leaves()]
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1, 0.75)
    if not near:
        return ""
    if text := advice(near[0], value):
        return f"did you mean --{near[0]}? Then {text}"
    return f"did you mean {' or '.join(_override(p, value) for p in default_paths(near[0]))}?"


def _override(path: str, value: str) -> str:
    return quoted(f"{PREFIX}{path}={value or 'VALUE'}")


def add_accept_changed_data(parser: argparse.ArgumentParser) -> None:
    """Adds --accept-changed-data."""
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="go on although labels, splits or config of the run are not those that it began "
        "with; without this option, such a change is refused",
    )


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for several processes, which `cli.start_devices` reads."""
    group = parser.add_argument_group("several processes")
    group.add_argument("--coordinator", default="", help="address of process 0, as host:port")
    group.add_argument("--processes", type=int, default=0, help="number of processes")
    group.add_argument("--process", type=int, default=-1, help="index of this process, from 0")
    group.add_argument(
        "--cluster",
        action="store_true",
        help="detect all three options from SLURM, a TPU pod or Kubernetes",
    )
