"""Workers that take turns: in each round every side works for some seconds, and who begins changes.

The first steps, in which programs are compiled and buffers filled, do not count, nor does the
beginning of each turn.
"""

import sys
from collections.abc import Iterator

from peer_process import Peer

WARM_UP = 2  # steps
UNMEASURED = 0.5  # beginning of a turn, as a share of what is measured of it


def warm_up(peers: list[Peer], whats: list[str]) -> None:
    """The first steps of everything that will be measured."""
    for peer in peers:
        for what in whats:
            for _ in range(WARM_UP):
                peer.ask(what)


def take_turns(
    peers: list[Peer], whats: list[str], batch: int, rounds: int, seconds: float
) -> Iterator[tuple[str, str, float]]:
    """(what, side, images/s) of each turn of that many seconds; a step is `batch` images."""
    for number in range(rounds):
        first = number % len(peers)
        for what in whats:
            for peer in peers[first:] + peers[:first]:
                peer.ask(what, seconds * UNMEASURED)
                reply = peer.ask(what, seconds)
                rate = reply["steps"] * batch / reply["seconds"]
                say(f"round {number + 1}: {peer.side} {what} {rate:.2f} images/s")
                yield what, peer.side, rate


def say(text: str) -> None:
    """What happens, beside the results on stdout."""
    print(text, file=sys.stderr, flush=True)
