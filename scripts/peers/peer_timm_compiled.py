"""timm's side of compare_peers.py with torch.compile."""

from functools import partial

import peer_timm

versions = peer_timm.versions
build = partial(peer_timm.build, compiled=True)
