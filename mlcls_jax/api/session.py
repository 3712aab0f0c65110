"""What the API sets in the process that calls it, and restores afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import root

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.system import distributed
from mlcls_jax.system.console import with_addresses
from mlcls_jax.system.output import lossy_output


@contextmanager
def session() -> Iterator[None]:
    """Sets up JAX, Pillow and OpenCV as the commands do within the block, and silences Orbax.

    A folder of compiled programs that the caller has set is kept.
    """
    before = {name: jax.config.values[name] for name in distributed.jax_options()}
    verbosity, handlers = logging.get_verbosity(), root.handlers[:]
    with image_libraries(), lossy_output(is_log=True):
        try:
            logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant
            distributed.start()
            if before[distributed.COMPILED]:
                jax.config.update(distributed.COMPILED, before[distributed.COMPILED])
            yield
        except (ValueError, OSError) as error:
            text = with_addresses(str(error))  # of a run in a bucket, not of its local copy
            if text == str(error) or type(error) not in (ValueError, OSError):
                raise
            raise type(error)(text) from error
        finally:
            logging.set_verbosity(verbosity)
            root.handlers[:] = handlers  # Orbax adds one
            for name, value in before.items():
                jax.config.update(name, value)
            if not before[distributed.COMPILED]:  # else JAX would keep using the folder
                compilation_cache.reset_cache()
