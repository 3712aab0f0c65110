"""Our side of compare_peers.py with activations and products in bfloat16."""

from functools import partial

import peer_ours

versions = peer_ours.versions
build = partial(peer_ours.build, compute_dtype="bfloat16")
