"""Keras's side of compare_peers.py with graphs compiled by XLA."""

from functools import partial

import peer_keras

versions = peer_keras.versions
build = partial(peer_keras.build, jit_compile=True)
