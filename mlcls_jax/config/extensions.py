"""Functions and networks of the user, which the config names as "module:function".

A name is looked up among the objects that were passed to `mlcls_jax.train` in this process, then
imported.  So a run that was started from Python with functions of a module can be continued and
evaluated from the command line.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from mlcls_jax.config.schema import Model, Phase

_registered: dict[str, Any] = {}


def register(value: Any) -> str:
    """Returns a name that `resolve` finds in this process, such as "my_losses:soft_f1".

    Args:
        value: a function, a class, or another object that can be called.

    >>> register(len)
    'builtins:len'
    """
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}:{named.__qualname__}"
    _registered[name] = value
    return name


def resolve(name: str, field: str) -> Any:
    """Returns the object that a field of the config names.

    Args:
        name: such as "my_losses:soft_f1".
        field: path of the field, for the message.

    Raises:
        ValueError: there is no such module, or nothing of that name in it.

    >>> resolve("math:sqrt", "loss.custom")(9.0)
    3.0
    """
    if name in _registered:
        return _registered[name]
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f'config: {field} is {name!r}; it must be written "module:function"')
    if "<" in attribute or module_name == "__main__":
        raise ValueError(
            f"config: {field} is {name!r}, which only the program that defines it has; pass it to "
            "mlcls_jax.train there, or move it to a module"
        )
    folder = os.getcwd()  # as `python -m` finds modules, also for the installed command
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"config: {field} is {name!r}, which cannot be imported ({error}); run the command in "
            "the folder of the module, or install it"
        ) from error
    _registered[name] = value
    return value


def fields_of_extensions(
    model: Model, phases: Sequence[Phase], own_batches: bool
) -> dict[str, Any]:
    """Returns the fields that the user's network or batches decide, {path: value}.

    Features cannot be cached with either of them, and the published weights are not those of the
    user's network.

    Args:
        model, phases: of the config.
        own_batches: whether the user makes the training batches.

    >>> fields_of_extensions(Model(custom="my_networks:vit"), [], own_batches=False)
    {'model.weights': ''}
    """
    fields: dict[str, Any] = {}
    if model.custom or own_batches:
        cached = [i for i, phase in enumerate(phases) if phase.cached_views]
        fields |= {f"phases[{i}].cached_views": 0 for i in cached}
    if model.custom and model.weights == Model().weights:
        fields["model.weights"] = ""
    return fields
