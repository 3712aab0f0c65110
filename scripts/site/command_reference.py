"""Makes the page with the help of every command, from the commands themselves."""

import os
import subprocess
import sys

from mlcls_jax.__main__ import COMMANDS

WIDTH = 96  # columns of the help texts


def page() -> str:
    """Returns the page as Markdown: what `mlcls-jax COMMAND --help` prints."""
    parts = [
        "# Every command",
        "`mlcls-jax COMMAND` and `python -m mlcls_jax COMMAND` are the same. "
        "Options that begin with `--config.` set [fields of the config](config.md).",
    ]
    for name, summary in COMMANDS.items():
        parts += [f"## mlcls-jax {name}", f"{summary[0].upper()}{summary[1:]}."]
        parts += [f"```text\n{help_of(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def help_of(name: str) -> str:
    """Returns the help of a command.

    Raises:
      subprocess.CalledProcessError: the command fails.
    """
    script = (
        "import sys; from mlcls_jax.__main__ import main; "
        f"sys.argv = ['mlcls-jax', {name!r}, '--help']; main()"
    )
    environment = {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.rstrip()
