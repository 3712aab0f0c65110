"""How the user called the running command, so that messages name others in the same form."""

import sys
from pathlib import Path

PROGRAM, PACKAGE = "mlcls-jax", "mlcls_jax"


def program() -> str:
    """Returns how to call the command that runs all others.

    Returns:
        "mlcls-jax"; or "python -m mlcls_jax", if the user did not call mlcls-jax.
    """
    return PROGRAM if _called().stem == PROGRAM else f"python -m {PACKAGE}"


def command(module: str) -> str:
    """Returns how to call a command, in the form in which the user called the running one.

    Args:
        module: a command's module in the package, such as "lr_find".

    Returns:
        "mlcls-jax lr-find", "python -m mlcls_jax lr-find" or "python -m mlcls_jax.lr_find".
    """
    called = _called()
    if called.stem == PROGRAM or (called.parent.name, called.name) == (PACKAGE, "__main__.py"):
        return f"{program()} {module.replace('_', '-')}"
    return f"python -m {PACKAGE}.{module}"


def _called() -> Path:
    """Returns the path of the running program, which Python puts before the arguments."""
    return Path(sys.argv[0] if sys.argv else "")
