"""What the API sets in the process that calls it, and restores afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import root

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.system import distributed

CACHE = "jax_compilation_cache_dir"
OPTIONS = (
    CACHE,
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_cpu_enable_async_dispatch",
)


@contextmanager
def session() -> Iterator[None]:
    """Sets up JAX, Pillow and OpenCV as the commands do within the block, and silences Orbax.

    A folder of compiled programs that the caller has set is kept.
    """
    before = {name: jax.config.values[name] for name in OPTIONS}
    verbosity, handlers = logging.get_verbosity(), root.handlers[:]
    with image_libraries():
        try:
            logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant
            distributed.start()
            if before[CACHE]:
                jax.config.update(CACHE, before[CACHE])
            yield
        finally:
            logging.set_verbosity(verbosity)
            root.handlers[:] = handlers  # Orbax adds one
            for name, value in before.items():
                jax.config.update(name, value)
            if not before[CACHE]:  # else JAX would keep using the folder
                compilation_cache.reset_cache()
