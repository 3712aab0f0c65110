"""TensorFlow as a reader of pictures on the CPU; the only module that imports it.

TensorFlow claims every accelerator it sees, and most of its memory, from the moment it is first
used. JAX needs them, so they are hidden before anything else can run.

Importing it takes seconds, so that is done at the first use, or by `load` in a thread before.
"""

import os
import threading
from typing import TYPE_CHECKING, Any

_loading = threading.Lock()
_loaded: list[Any] = []


def load() -> Any:
    """The module `tensorflow`, imported at the first call; from any thread."""
    with _loading:
        if not _loaded:
            _loaded.append(_import())
        return _loaded[0]


def index_shuffle(index: Any, seed: Any, max_index: Any) -> Any:
    """`tf.random.experimental.index_shuffle`, which type checkers do not see."""
    return load().random.experimental.index_shuffle(index, seed, max_index)


def _import() -> Any:
    # TensorFlow reads these once, while it is imported; what the user has set stays.  Without
    # oneDNN (of no use to decoding) it has nothing to announce.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # It imports Keras for its side effects, a second for nothing; not so where it expects Keras 2.
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    try:
        import tensorflow
    finally:
        del os.environ["TF_USE_LEGACY_KERAS"]
        if legacy is not None:
            os.environ["TF_USE_LEGACY_KERAS"] = legacy
    for kind in ("GPU", "TPU"):
        tensorflow.config.set_visible_devices([], kind)
    return tensorflow


class _Lazy:
    def __getattr__(self, name: str) -> Any:
        return getattr(load(), name)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _Lazy()

__all__ = ["index_shuffle", "load", "tf"]
