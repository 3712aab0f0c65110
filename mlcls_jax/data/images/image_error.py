"""The error of a single image."""


class ImageError(ValueError):
    """Raised for an image that cannot be read; the message gives the reason."""
