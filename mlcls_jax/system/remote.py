"""Access to buckets and other file systems by address, such as gs://bucket/run, through fsspec.

fsspec and the package of a protocol are imported only when an address is used.
"""

import functools
import logging
import os
import re
from collections.abc import Callable
from typing import Any

from mlcls_jax.system.console import one_line

_COLLAPSED = re.compile(r"[a-z0-9]{2,}:/[^/]")


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is an address, not a local path."""
    return "://" in os.fspath(path)


def was_address(path: str | os.PathLike) -> bool:
    """Returns whether a path is what pathlib makes of an address.

    >>> was_address("gs:/bucket/run"), was_address("gs://bucket/run"), was_address("C:/run")
    (True, False, False)
    """
    return bool(_COLLAPSED.match(os.fspath(path)))


@functools.lru_cache
def file_system(protocol: str) -> Any:
    """Returns fsspec's thread-safe file system for a protocol such as "gs".

    Raises:
        ValueError: a package is missing, or the protocol is unknown.
    """
    if protocol in ("gs", "gcs"):
        # Asks Google which kind of bucket it is, before each request where that is not permitted.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # the error says the same
    try:
        import fsspec

        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        return fsspec.filesystem(protocol, **options)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{protocol}:// addresses cannot be used ({one_line(error)}); install "
            "mlcls_jax[bucket] for gs:// and s3://, or the package that fsspec needs for this "
            "protocol"
        ) from error


def file_system_of(address: str) -> Any:
    """Returns fsspec's file system for an address; see `file_system`."""
    return file_system(address.partition("://")[0])


def asked(call: Callable, address: str | list[str], *arguments: Any, **options: Any) -> Any:
    """Calls a function of a file system, and turns all its errors into OSErrors.

    Args:
        call: the function, whose first argument is an address.
        address: that address, or several.
        arguments, options: its other arguments.

    Raises:
        OSError: the call failed; names the address.
    """
    try:
        return call(address, *arguments, **options)
    except OSError:
        raise
    except Exception as error:  # each package has its own
        raise OSError(f"{address}: {one_line(error, limit=200)}") from error


def files_below(address: str) -> dict[str, dict]:
    """Returns what fsspec says of each file below a folder, by its name relative to the folder.

    Raises:
        OSError: the file system does not answer.
    """
    files = file_system_of(address)
    base = files._strip_protocol(address).rstrip("/") + "/"
    found = asked(files.find, address, detail=True)
    return {name.removeprefix(base): entry for name, entry in found.items()}


def exists(address: str) -> bool:
    """Returns whether an address names a file or a folder.

    Raises:
        OSError: the file system does not answer.
    """
    files = file_system_of(address)
    files.invalidate_cache()
    return asked(files.exists, address)
