"""Reads the bytes of image files, on this machine or in a bucket."""

import errno
import os
import stat

from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.readers.storage import Part, is_remote, read_part, read_whole

MAX_BYTES = 1 << 30  # more than MAX_PIXELS uncompressed; several threads read at the same time
# Errors of one file, not of the disk or the network.
_FILE_ERRORS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def read_file(path: str) -> bytes:
    """Returns the bytes of an image file, or of an image in a shard.

    Args:
      path: a path, an address or a Part.

    Raises:
      ImageError: this file cannot be read.
      OSError: the disk or the network fails.
    """
    try:
        if isinstance(path, Part):
            return read_part(path)
        return read_whole(path) if is_remote(path) else _read_local(path)
    except FileNotFoundError as error:
        if isinstance(path, Part):
            raise ImageError(f"its shard {path.shard} does not exist") from error
        is_link = os.path.islink(path)
        reason = "it links to a file that does not exist" if is_link else "the file does not exist"
        raise ImageError(reason) from error
    except OSError as error:
        # If a disk or network fails, the image is not to blame.
        if not isinstance(path, Part) and error.errno not in _FILE_ERRORS:
            raise
        raise ImageError(error.strerror or str(error)) from error
    except ValueError as error:
        raise ImageError(str(error)) from error


def _read_local(path: str) -> bytes:
    # Without O_NONBLOCK, opening a pipe would wait for its writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ImageError("it is a socket or device, not a file") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, socket or pipe"
            raise ImageError(f"it is {kind}, not a file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"it has {status.st_size:,} bytes, too many for an image")
        contents = os.read(descriptor, status.st_size)
        if len(contents) < status.st_size:  # at most 2 GiB at once, or the file has changed
            with open(descriptor, "rb", closefd=False) as file:
                contents += file.read()
        return contents
    finally:
        os.close(descriptor)
