"""timm's side of compare_peers.py in bfloat16, by torch's autocast."""

from functools import partial

import peer_timm

versions = peer_timm.versions
build = partial(peer_timm.build, bfloat16=True)
