"""The configs that come with the package, by name: "b5" is configs/b5.py."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
DEMO = Path("data/demo")  # where the config "demo" finds what `mlcls-jax demo` makes


def config_folder() -> Path:
    """Returns the folder of the configs: mlcls_jax/configs of a wheel, configs/ of a checkout.

    Raises:
        FileNotFoundError: the installation has no configs.
    """
    folders = (PACKAGE / "configs", PACKAGE.parent / "configs")
    for folder in folders:
        if (folder / "default.py").is_file():
            return folder
    raise FileNotFoundError(f"{folders[0]} is missing; install mlcls_jax again")


def config_names() -> list[str]:
    """Returns the names of the configs, sorted: their file names without ".py"."""
    return sorted(path.stem for path in config_folder().glob("*.py") if path.stem != "__init__")


def short_name(model: str) -> str:
    """Returns the name of a config for the name of a published model, if it is an EfficientNet.

    >>> short_name("tf_efficientnet_b0"), short_name("EfficientNetV2S"), short_name("lite_0")
    ('b0', 'v2s', 'lite0')
    """
    short = re.sub(r"^(tf_|keras_)?(efficient_?net)?[_-]?(v2)?", r"\3", model.lower())
    return re.sub(r"\W|_", "", short.split(".")[0])
