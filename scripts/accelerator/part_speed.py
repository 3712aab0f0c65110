"""Part 3: images/s of training, frozen training and evaluation, in turns with timm and Keras.

All sides compute in bfloat16 on one batch that is already in the GPU's memory. First every network
is measured at one batch, then other batches as time allows.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from part_networks import TINY
from part_record import Record, options_of, read
from peer_process import Peer

WORKER = Path(__file__).with_name("speed_worker.py")
SIDES = ("ours", "timm", "timm_compiled", "keras")
NEEDS = {"timm": "timm", "timm_compiled": "timm", "keras": "keras"}
WHATS = ("train", "forward", "frozen")
# Network, pixels, first batch, and the batches of the sweep.
SETTINGS = (
    ("b0", 224, 256, (128, 512, 1024)),
    ("b5", 456, 32, (16, 64, 128)),
    ("b4", 380, 64, (32, 128, 256)),
    ("v2s", 384, 64, (32, 128, 256)),
)
SMALL = ((TINY, 32, 2, ()),)
ROUNDS, SECONDS = 3, 1.0
START = 40.0  # seconds that a network takes at least, most of them to compile


def name_of(variant: str, size: int, what: str, side: str, batch: int) -> str:
    """Returns the name of a result."""
    return f"{variant}@{size} {what} {side} {batch}"


def start(side: str, variant: str, size: int) -> Peer:
    """Starts the process of a side."""
    module = f"speed_{side}"
    command = [sys.executable, str(WORKER), module, variant, str(size)]
    return Peer(side, command, dict(os.environ))


def measure_in_turns(
    record: Record, peers: list[Peer], setting: tuple[str, int], what: str, batch: int, small: bool
) -> None:
    """Measures one step on all sides, which take turns, and stores images/s."""
    request = f"{what}@{batch}"
    names = {peer.side: name_of(*setting, what, peer.side, batch) for peer in peers}
    with ThreadPoolExecutor(len(peers)) as pool:  # they compile at the same time
        replies = list(pool.map(lambda peer: ask(peer, request, 0.0), peers))
    alive = []
    for peer, reply in zip(peers, replies, strict=True):
        if "error" in reply:
            record.fail(names[peer.side], reply["error"])
        else:
            alive.append(peer)
    rates: dict[str, list[float]] = {peer.side: [] for peer in alive}
    last: dict[str, dict[str, Any]] = {}
    for turn in range(1 if small else ROUNDS):
        for peer in alive[turn:] + alive[:turn]:
            reply = ask(peer, request, 0.01 if small else SECONDS)
            if "error" in reply:
                record.fail(names[peer.side], reply["error"])
            else:
                rates[peer.side].append(batch * reply["steps"] / reply["seconds"])
                last[peer.side] = reply
    for side, values in rates.items():
        if values:
            rest = {k: v for k, v in last[side].items() if k not in ("steps", "seconds")}
            result = {"images_per_second": median(values), "rounds": values, **rest}
            record.store(names[side], result)
            print(f"{names[side]}: {median(values):.1f} images/s", flush=True)


def ask(peer: Peer, request: str, seconds: float) -> dict[str, Any]:
    """Returns the reply of a side, or {"error"} if its process has ended."""
    try:
        return peer.ask(request, seconds)
    except ValueError as error:
        return {"error": str(error)}


def sides(record: Record, names: list[str]) -> list[str]:
    """Returns the sides whose library is there, and stores why the others have no result."""
    found = []
    for side in SIDES:
        if find_spec(NEEDS.get(side, "jax")) is None:
            for name in names:
                if f" {side} " in name:
                    record.fail(name, f"{NEEDS[side]} is not installed")
        else:
            found.append(side)
    return found


def planned(settings: Any) -> Iterator[str]:
    """Yields the names of the results at the first batches."""
    for variant, size, batch, _ in settings:
        for what in WHATS:
            for side in SIDES:
                yield name_of(variant, size, what, side, batch)


def main() -> None:
    """Measures every network, then other batches of ours and timm's."""
    options = options_of(__doc__)
    record, small = Record("speed", options), options.rehearse
    settings = SMALL if small else SETTINGS
    names = list(planned(settings))
    record.plan(names)
    measured = read(options.out, "hardware").get("values", {})
    if "matmul bfloat16" in measured and "bandwidth" in measured:
        peaks = measured["matmul bfloat16"]["flops"], measured["bandwidth"]["bytes_per_second"]
        record.store("peaks", dict(zip(("flops", "bytes_per_second"), peaks, strict=True)))
    present = sides(record, names)
    if small:  # the others lack this network
        for name in names:
            if " ours " not in name:
                record.fail(name, "left out of a rehearsal")
        present = ["ours"]
    for variant, size, batch, _ in settings:
        if record.left < START and not small:
            break
        with ExitStack() as stack:
            peers = [stack.enter_context(start(side, variant, size)) for side in present]
            peers = [peer for peer in peers if is_ready(record, peer, names)]
            for what in WHATS:
                if peers and record.left > 0:
                    measure_in_turns(record, peers, (variant, size), what, batch, small)
    for variant, size, _, batches in settings:
        if record.left < START and not small:
            break
        with ExitStack() as stack:
            peers = [stack.enter_context(start(s, variant, size)) for s in present[:2]]
            peers = [peer for peer in peers if is_ready(record, peer, [])]
            for batch in batches:
                if peers and record.left > START / 2:
                    measure_in_turns(record, peers, (variant, size), "train", batch, small)


def is_ready(record: Record, peer: Peer, names: list[str]) -> bool:
    """Waits for the side's process; returns False, and stores the reason, if it has ended."""
    try:
        record.values.setdefault("versions", {})[peer.side] = peer.versions()
    except ValueError as error:
        for name in names:
            if f" {peer.side} " in name:
                record.fail(name, error)
        return False
    return True


if __name__ == "__main__":
    main()
