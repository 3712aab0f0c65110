"""Checks of the section log, and the packages that it needs."""

from importlib.util import find_spec

from mlcls_jax.config.schema import LOGGERS, TENSORBOARD, Log

_MODULES = {"comet": "comet_ml"}  # where a package is not called like its logger


def names_of(to: str) -> list[str]:
    """Returns the names in the field log.to, each once.

    >>> names_of("tensorboard, wandb"), names_of("[mlflow]"), names_of("")
    (['tensorboard', 'wandb'], ['mlflow'], [])
    """
    names = (name.strip(" '\"").lower() for name in to.strip("[]() ").split(","))
    return list(dict.fromkeys(filter(None, names)))


def check_log(log: Log) -> None:
    """Checks the fields of the section.

    Raises:
        ValueError: a name is not that of a logger, or a field has no effect.
    """
    names = names_of(log.to)
    if unknown := [name for name in names if name not in LOGGERS]:
        raise ValueError(
            f"config: log.to has {unknown[0]!r}; it must be names of {', '.join(LOGGERS)}, "
            "separated by commas"
        )
    if not log.project:
        raise ValueError("config: log.project is empty; name the project, such as mlcls_jax")
    for field in ("project", "run_name"):
        value = getattr(log, field)
        if value != getattr(Log(), field) and not set(names) - {TENSORBOARD}:
            raise ValueError(
                f"config: log.{field} is {value!r}, but log.to is {log.to!r}, which does not use "
                f"it; remove it, or add a logger, as in log.to={TENSORBOARD},wandb"
            )


def check_installed(log: Log) -> None:
    """Checks that the packages of the loggers are installed, without importing them.

    Raises:
        ValueError: one is not; says how to install it.
    """
    for name in names_of(log.to):
        if name != TENSORBOARD and find_spec(_MODULES.get(name, name)) is None:
            raise ValueError(
                f"config: log.to has {name}, which is not installed; run pip install "
                f"'mlcls_jax[{name}]', or remove it from log.to"
            )
