"""Options shared by compare_input.py and compare_peers.py."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from peer_environments import ENVIRONMENTS

from mlcls_jax.system.heap import heap_tunables

MALLOCS = {"heap-kept": heap_tunables(), "plain": ""}


class Parser(argparse.ArgumentParser):
    """A parser that raises ValueError with one line; argparse would print all options too."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def add_process_options(parser: argparse.ArgumentParser, default_malloc: str) -> None:
    """Adds --malloc, for `worker_environment`, and --environments, for `peer_environments`."""
    add = parser.add_argument
    add(
        "--malloc",
        type=_malloc,
        default=default_malloc,
        help=f"heap-kept, plain, or a value of GLIBC_TUNABLES (default: {default_malloc})",
    )
    add(
        "--environments",
        type=Path,
        default=ENVIRONMENTS,
        help=f"folder for the peers' environments (default: {ENVIRONMENTS.name})",
    )


def worker_environment(malloc: str) -> dict[str, str]:
    """Returns our environment variables for a worker on the CPU, with --malloc applied."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if tunables := MALLOCS.get(malloc, malloc):
        environment["GLIBC_TUNABLES"] = tunables
    return environment | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def positive(kind: type) -> Any:
    """Returns the type of an option that takes a number above 0."""

    def number(text: str):
        if (value := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def some_of(known: Iterable[str]) -> Any:
    """Returns the type of an option that takes some of these names, separated by commas."""

    def chosen(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return chosen


def _malloc(text: str) -> str:
    if text not in MALLOCS and not text.startswith("glibc."):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(MALLOCS)}, glibc.…=…")
    return text
