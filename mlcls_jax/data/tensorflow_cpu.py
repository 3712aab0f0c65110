"""TensorFlow as a reader of pictures on the CPU; the only module that imports it.

TensorFlow claims every accelerator it sees, and most of its memory, from the moment it is first
used. JAX needs them, so they are hidden before anything else can run.
"""

import os
from typing import Any

# TensorFlow reads these once, while it is imported; what the user has set stays.  Without oneDNN
# (of no use to decoding) it has nothing to announce.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

# Bound here because type checkers do not see into this lazily loaded module.
_random: Any = tf.random
index_shuffle = _random.experimental.index_shuffle

__all__ = ["index_shuffle", "tf"]
