"""Measures how loaders scale with threads, and what an image costs, and prints tables.

    python scripts/peers/loader_scaling.py                             # everything
    python scripts/peers/loader_scaling.py --what threads --sides ours,ours-tf-data
    python scripts/peers/loader_scaling.py --what cost --without-lock

"threads" reads 2,048 JPEGs of 16x16 pixels in batches of 128, with flips, so that next to nothing
is left but the loader itself. Each loader runs with 1, 2 and 4 threads (torch: processes). The
first epoch is not measured. py-spy measures the share of the time in which Python's lock is held.
Microseconds under the lock limit the images/s of a process on any number of cores.

"cost" measures the CPU time and the time under the lock of an image at 16, 224 and 456 px, for
threads and tf.data, with and without RandAugment. It prints the lines of
mlcls_jax/data/loaders/choice.py that state them. 224 and 456 px are read from JPEGs of 640x480. The
CPU time is measured with one thread per core. The time under the lock is measured with one thread,
because a thread that waits for a core would keep the lock meanwhile.

The processes run one after another; leave the machine alone meanwhile. The last line is JSON. Needs
Linux, and root and `pip install py-spy` for the lock; torch and Keras have environments of their
own, see compare_input.py.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

from compare_input import PHOTOS, SIDES, python_of
from input_images import ensure_images
from lock_share import KNOWN_LOCK, lock_share
from peer_options import Parser, add_process_options, positive, some_of, worker_environment
from peer_process import Peer, worker_command
from peer_table import markdown, spread
from peer_turns import say
from peer_worker import cores

from mlcls_jax.cli import run

BATCH = 128
SMALL, LARGE = 16, (224, 456)  # px
COUNTS = {SMALL: 2048} | dict.fromkeys(LARGE, 300)  # images
THREADS = (1, 2, 4)
SCALED = ("ours", "ours-tf-data", "ours-grain", "torch", "keras-directory")
SEVERAL_LOCKS = {"torch"}  # each of its processes has a lock
# Each loader without and with changes of pixels, for the lines of choice.py.
COSTS = (
    ("ours", "ours-randaugment"),
    ("ours-tf-data", "ours-tf-data-randaugment"),
)
WHATS = ("threads", "cost")
ASK = 0.5  # seconds of a request while py-spy looks


@dataclass(frozen=True)
class Place:
    """What is measured: a key of SIDES, px, number of threads, folder of the images."""

    side: str
    size: int
    threads: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.side} {self.size} px, {self.threads} threads"


@dataclass(frozen=True)
class Measured:
    """What was measured of a loader.

    Attributes:
        side: a key of SIDES.
        size: side of the batches' images in pixels.
        threads: number of threads, or of processes of torch.
        rates: images/s of each round.
        core: microseconds of CPU time per image, without child processes.
        lock_share: share of the time under Python's lock; None if it was not measured.
        lock: microseconds under the lock per image.
    """

    side: str
    size: int
    threads: int
    rates: list[float]
    core: float
    lock_share: float | None = None
    lock: float | None = None


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    environment = worker_environment(args.malloc)
    found: dict[str, list[Measured]] = {}
    with TemporaryDirectory() as temporary:
        folders = {size: Path(temporary, "large") for size in LARGE}
        folders[SMALL] = Path(temporary, "small")
        for what in args.what:
            plan = _thread_plan(args.sides) if what == "threads" else _cost_plan()
            for size in {size for _, size, _ in plan}:
                sides = (SMALL, SMALL) if size == SMALL else (640, 480)
                count = min(args.images or COUNTS[size], COUNTS[size])
                ensure_images(folders[size], PHOTOS, count, sides)
            measure = measure_threads if what == "threads" else measure_cost
            found[what] = [
                measure(Place(side, size, threads, folders[size]), environment, args)
                for side, size, threads in plan
            ]
    tables = [thread_table(found["threads"])] if "threads" in found else []
    if "cost" in found:
        tables += [cost_table(found["cost"]), f"```python\n{choice_lines(found['cost'])}\n```"]
    known = "" if args.without_lock else f"; {check(environment, args)}"
    tables.append(f"{cores()} cores; malloc: {args.malloc}{known}")
    print("\n\n".join(tables))
    print(f"\n{json.dumps({what: [vars(m) for m in rows] for what, rows in found.items()})}")
    return 0


def _thread_plan(sides: Iterable[str]) -> list[tuple[str, int, int]]:
    """The (side, size, threads) of the first table."""
    return [(side, SMALL, threads) for side in sides for threads in THREADS]


def _cost_plan() -> list[tuple[str, int, int]]:
    """The (side, size, threads) of the second table."""
    sides = [side for pair in COSTS for side in pair]
    return [(side, size, cores()) for side in sides for size in (SMALL, *LARGE)]


def measure_threads(
    place: Place, environment: dict[str, str], args: argparse.Namespace
) -> Measured:
    """Measures a loader for the first table."""
    with started(place, environment, args) as peer:
        found = speed(peer, place, args)
        if args.without_lock or place.side in SEVERAL_LOCKS:
            return found
        return lock_added(found, peer, args)


def measure_cost(place: Place, environment: dict[str, str], args: argparse.Namespace) -> Measured:
    """Measures a loader for the second table, with a process for each of its two times."""
    with started(place, environment, args) as peer:
        found = speed(peer, place, args)
    if args.without_lock:
        return found
    with started(replace(place, threads=1), environment, args) as peer:
        return lock_added(found, peer, args)


@contextmanager
def started(place: Place, environment: dict[str, str], args: argparse.Namespace) -> Iterator[Peer]:
    """Gives the process of a loader, after an epoch that is not measured."""
    python, module = python_of(place.side, args.environments), SIDES[place.side].module
    arguments = (place.side, str(place.folder), place.size, BATCH, place.threads)
    with Peer(place.side, worker_command(python, module, *arguments), environment) as peer:
        peer.versions()
        unmeasured = args.images or COUNTS[place.size]
        while unmeasured > 0:
            unmeasured -= BATCH * peer.ask("batch", args.seconds / 2)["steps"]
        yield peer


def speed(peer: Peer, place: Place, args: argparse.Namespace) -> Measured:
    """Measures the images/s and the CPU time of a loader."""
    replies = [peer.ask("batch", args.seconds) for _ in range(args.rounds)]
    rates = [BATCH * reply["steps"] / reply["seconds"] for reply in replies]
    core = 1e6 * median(reply["cpu_seconds"] / reply["steps"] for reply in replies) / BATCH
    say(f"{place}: {median(rates):.0f} images/s, {core:.0f} µs of a core")
    return Measured(place.side, place.size, place.threads, rates, core)


def lock_added(found: Measured, peer: Peer, args: argparse.Namespace) -> Measured:
    """Measures the time under the lock as well."""
    share, lock = lock_of(peer, args.lock_seconds, BATCH)
    say(f"{peer.side} {found.size} px: {share:.1%} under the lock, {lock:.1f} µs")
    return replace(found, lock_share=share, lock=lock)


def lock_of(peer: Peer, seconds: int, batch: int) -> tuple[float, float]:
    """Returns the share of the time under the lock, and the microseconds of an image under it."""
    share, replies = lock_share(peer.pid, seconds, lambda: peer.ask("batch", ASK))
    images = batch * sum(reply["steps"] for reply in replies)
    return share, 1e6 * share * sum(reply["seconds"] for reply in replies) / images


def check(environment: dict[str, str], args: argparse.Namespace) -> str:
    """Measures a known time under the lock, and says both in a few words."""
    with Peer("known", worker_command(sys.executable, "lock_share"), environment) as peer:
        peer.versions()
        _, lock = lock_of(peer, args.lock_seconds, 1)
    return f"of {1e6 * KNOWN_LOCK:.0f} µs under the lock, py-spy sees {lock:.0f}"


def thread_table(rows: Iterable[Measured]) -> str:
    """Returns the first table in Markdown: a row per loader and number of threads."""
    head = ["", "threads", "images/s", "lock held", "µs under the lock per image"]
    table = [head]
    for row in rows:
        rates = spread(median(row.rates), min(row.rates), max(row.rates), digits=0)
        share = "–" if row.lock_share is None else f"{row.lock_share:.0%}"
        table.append([SIDES[row.side].name, str(row.threads), rates, share, _number(row.lock)])
    return markdown(table)


def cost_table(rows: Iterable[Measured]) -> str:
    """Returns the second table in Markdown: a row per loader, two columns per size."""
    head, cells = [""], {}
    for size in (SMALL, *LARGE):
        head += [f"{size} px, µs of a core", "µs under the lock"]
    for row in rows:
        cells.setdefault(SIDES[row.side].name, []).extend([_number(row.core), _number(row.lock)])
    return markdown([head, *([name, *numbers] for name, numbers in cells.items())])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def choice_lines(rows: Iterable[Measured]) -> str:
    """Returns the lines of mlcls_jax/data/loaders/choice.py that state these costs.

    What changes of pixels add is the mean over both loaders. Times under the lock are those of the
    smallest images, where they are the largest part and the most images are seen.
    """
    found = {(row.side, row.size): row for row in rows}
    sizes = (SMALL, *LARGE)

    def core(side: str) -> list[float]:
        return [found[side, size].core for size in sizes]

    def lock(side: str) -> float:
        return found[side, SMALL].lock or 0.0

    added = [
        mean(found[changed, size].core - found[plain, size].core for plain, changed in COSTS)
        for size in sizes
    ]
    threads, tf_data = (_rounded(core(plain)) for plain, _ in COSTS)
    lock_added = mean(lock(changed) - lock(plain) for plain, changed in COSTS)
    return "\n".join(
        [
            f"_SIDES = {sizes}",
            f"_THREADS, _TF_DATA = {threads}, {tf_data}",
            f"_LOCK = {lock(COSTS[0][0]):.0f}",
            f"_CHANGES, _LOCK_OF_CHANGES = {_rounded(added)}, {lock_added:.0f}",
        ]
    )


def _rounded(times: Iterable[float]) -> tuple[int, ...]:
    """The times in whole microseconds, or tens from 100 on."""
    return tuple(round(time, -1 if time >= 100 else None) for time in map(round, times))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the options."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--what", type=some_of(WHATS), default=WHATS, help="threads, cost, or both (default)")
    add(
        "--sides",
        type=some_of(SCALED),
        default=SCALED,
        help=f"loaders of the first table (default: {','.join(SCALED)})",
    )
    add("--rounds", type=positive(int), default=5, help="number of rounds (default 5)")
    add("--seconds", type=positive(float), default=2.0, help="least length of a round (default 2)")
    add("--lock-seconds", type=positive(int), default=10, help="how long py-spy looks (default 10)")
    add("--without-lock", action="store_true", help="do not measure the time under the lock")
    add("--images", type=positive(int), help="at most this many images (default: 2048 and 300)")
    add_process_options(parser, default_malloc="plain")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
