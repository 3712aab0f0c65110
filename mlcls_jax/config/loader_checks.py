"""Checks of the fields that choose a loader."""

from mlcls_jax.config.schema import Augment, Data

PROTOCOL = "grpc://"


def check_loader(data: Data, augment: Augment) -> None:
    """Checks that the loader can do what the other fields ask for.

    Raises:
        ValueError: the loader cannot read a cache or resize so, or the service has no address.
    """
    if data.service and not data.service.startswith(PROTOCOL):
        raise ValueError(
            f"config: data.service is {data.service!r}; it must be an address such as "
            f"{PROTOCOL}10.0.0.2:5050"
        )
    if data.service and data.loader not in ("auto", "tf_data"):
        raise ValueError(
            f"config: data.service is {data.service!r}, which needs data.loader='tf_data', not "
            f"{data.loader!r}; remove one of the two"
        )
    if not data.service and data.loader != "tf_data":
        return
    wanted = f"data.service={data.service}" if data.service else "data.loader=tf_data"
    if data.cache != "none":
        raise ValueError(
            f"config: data.cache is {data.cache!r}, which {wanted} does not read; set "
            "data.loader=threads or data.cache=none"
        )
    if augment.interpolation != "bilinear":
        raise ValueError(
            f"config: augment.interpolation is {augment.interpolation!r}, but {wanted} resizes "
            "bilinearly; set data.loader=threads or augment.interpolation=bilinear"
        )
