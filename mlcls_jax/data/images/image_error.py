"""The error of a single image."""

from mlcls_jax.system.console import one_line


class ImageError(ValueError):
    """Raised for an image that cannot be read; the message gives the reason."""


def damaged(form: str, error: BaseException | None = None) -> str:
    """Returns that the data of an image are damaged, with the reason of a library.

    Args:
        form: the format, such as "PNG".
        error: what the library raised.
    """
    reason = f" ({one_line(error, limit=200)})" if error else ""
    return f"its {form} data are damaged or incomplete{reason}"
