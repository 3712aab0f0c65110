"""Checks of the fields that say what the pixels of images are."""

from mlcls_jax.config.schema import Augment, Data

MAX_CHANNELS = 64


def check_pixels(data: Data, augment: Augment, channels: int) -> None:
    """Checks that the other fields can do with images of a number of channels.

    Args:
        data, augment: sections of the config.
        channels: the field model.in_channels.

    Raises:
        ValueError: a change of colours, or a service that decodes RGB and grey only.
    """
    for name in ("saturation", "hue") if channels != 3 else ():
        if value := getattr(augment, name):
            raise ValueError(
                f"config: augment.{name} is {value}, which changes colours, but model.in_channels "
                f"is {channels}; set augment.{name}=0 or model.in_channels=3"
            )
    if data.service and channels not in (1, 3):
        raise ValueError(
            f"config: model.in_channels is {channels}, but the workers of data.service="
            f"{data.service} decode JPEGs only, which have 1 or 3; remove data.service"
        )
