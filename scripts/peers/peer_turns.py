"""Workers that take turns: in each round every side runs for a few seconds, and the order rotates.

The first steps, in which programs compile and buffers fill, and the beginning of each turn are not
measured.
"""

import sys
from collections.abc import Iterator

from peer_process import Peer

WARM_UP = 2  # steps
UNMEASURED = 0.5  # unmeasured beginning of a turn, relative to its measured part


def warm_up(peers: list[Peer], whats: list[str]) -> None:
    """Runs the first steps of everything that will be measured."""
    for peer in peers:
        for what in whats:
            for _ in range(WARM_UP):
                peer.ask(what)


def take_turns(
    peers: list[Peer], whats: list[str], batch: int, rounds: int, seconds: float
) -> Iterator[tuple[str, str, float]]:
    """Yields (what, side, images/s) of each turn.

    Args:
        peers: the workers.
        whats: names of the steps to measure.
        batch: images per step.
        rounds: number of rounds.
        seconds: least measured length of a turn.
    """
    for index in range(rounds):
        first = index % len(peers)
        for what in whats:
            for peer in peers[first:] + peers[:first]:
                peer.ask(what, seconds * UNMEASURED)
                reply = peer.ask(what, seconds)
                rate = reply["steps"] * batch / reply["seconds"]
                say(f"round {index + 1}: {peer.side} {what} {rate:.2f} images/s")
                yield what, peer.side, rate


def say(text: str) -> None:
    """Prints progress to stderr; stdout is for the results."""
    print(text, file=sys.stderr, flush=True)
