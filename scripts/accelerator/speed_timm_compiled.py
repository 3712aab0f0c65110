"""timm's side of part 3 with torch.compile."""

from functools import partial

import speed_timm

versions = speed_timm.versions
memory = speed_timm.memory
build = partial(speed_timm.build, compiled=True)
