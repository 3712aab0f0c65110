"""A limit of the process's address space (ulimit -v) that is too small.

Libraries that cannot map their code, or start a thread, raise errors of many kinds or abort the
process.  Nothing here imports JAX, so that a limit is seen before they do.
"""

import errno

try:
    import resource
except ImportError:  # Windows
    resource = None

NEEDED = 2_000_000_000  # bytes of addresses; with 1.6 GB, a tiny network on two CPU cores aborts
_SIGNS = ("failed to map segment", "cannot allocate memory", "can't start new thread", "bad_alloc")


def limit() -> int | None:
    """Returns the limit in bytes, or None without one."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def check() -> None:
    """Refuses a limit under which JAX cannot start.

    Raises:
        MemoryError: the limit is below NEEDED.
    """
    size = limit()
    if size is not None and size < NEEDED:
        raise MemoryError(_message(size))


def explain(error: BaseException) -> str:
    """Returns a line on an error that the limit has caused, or "" if it is another one."""
    size = limit()
    if size is None:
        return ""
    text = str(error).lower()
    is_full = isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
    return _message(size) if is_full or any(sign in text for sign in _SIGNS) else ""


def _message(size: int) -> str:
    return (
        f"the address space of this process is limited to {size / 1e9:.1f} GB (ulimit -v), too "
        "little for this command; run ulimit -v unlimited, or raise it"
    )
