"""Compares our speed and memory on the CPU with timm and Keras, and prints the table of the README.

    python scripts/peers/compare_peers.py                               # both rows
    python scripts/peers/compare_peers.py --variant b0 --what forward,train --rounds 3
    python scripts/peers/compare_peers.py --variant b0 --size 128 --batch 32 --malloc plain --json

The peers get an environment each at the first run (timm: 1 GB, Keras: 2 GB).  Where pip would take
a torch for CUDA, name the index of CPU wheels to it in PIP_EXTRA_INDEX_URL.

Every side does the same: float32, one uint8 batch that is in memory already, normalised in the
step; everything trains, with batch statistics of the batch, dropout and drop path as published,
binary cross-entropy over 80 classes, AdamW without clipping.  Each step is waited for.  Peers are
as fast as we know to make them: timm with channels last, fused AdamW and inference mode; Keras with
one graph for the step and none of its metrics.

Each side has a process of its own. They take turns: in each round every side runs for some seconds
while the others are stopped, and who begins changes. The first steps, in which programs are
compiled, do not count, nor does the beginning of each turn: a process that was stopped is slower at
first, and in training none is. Peak memory is that of other processes, one at a time, which do
nothing but train; ours finds its programs compiled if it has trained before.

The side keras-xla is Keras with its graphs compiled by XLA.  Linux only.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import peer_environments
from peer_options import add_process_options, positive, some_of, worker_environment
from peer_process import Peer, worker_command
from peer_table import markdown, spread
from peer_turns import WARM_UP, say, take_turns, warm_up

from mlcls_jax.cli import run
from mlcls_jax.models.variants import VARIANTS

README_BATCHES = {"b0": 16, "b5": 2}
KNOWN = [f"b{number}" for number in range(8)]  # variants that every side has
SIDES = {"ours": "ours", "timm": "timm on torch", "keras": "Keras on TensorFlow"}
OTHERS = {"keras-xla": "Keras on TensorFlow, XLA"}
NAMES = SIDES | OTHERS
WHATS = ("forward", "train", "memory")
MEMORY_STEPS = 4


@dataclass(frozen=True)
class Setting:
    """What is computed on every side: variant, pixels a side, images a step, dropout rate."""

    variant: str
    size: int
    batch: int
    dropout: float

    def __str__(self) -> str:
        return f"{self.variant.upper()}, {self.size} px, batch {self.batch}"


@dataclass(frozen=True)
class Measured:
    """Of one setting: side -> images/s of each round, and -> peak bytes of training."""

    setting: Setting
    forward: dict[str, list[float]]
    train: dict[str, list[float]]
    memory: dict[str, int]


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    environment = worker_environment(args.malloc)
    pythons = {side: python_of(side, args.environments) for side in args.sides}
    results, versions = [], {}
    for setting in args.settings:
        measured, found = measure(setting, pythons, environment, args)
        results.append(measured)
        versions |= found
    about = {
        "malloc": environment.get("GLIBC_TUNABLES", "plain"),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }
    if args.json:
        print(json.dumps(about | {"results": [asdict(measured) for measured in results]}, indent=2))
    else:
        print(table(results, args.sides))
        print(
            f"\n{about['cores']} cores; malloc: {about['malloc']}; {', '.join(versions.values())}"
        )
    return 0


def python_of(side: str, environments: Path) -> str:
    """Of the side's environment, which is made if need be."""
    if side == "ours":
        return sys.executable
    return peer_environments.python_of(side.partition("-")[0], environments)


def measure(
    setting: Setting, pythons: dict[str, str], environment: dict[str, str], args: argparse.Namespace
) -> tuple[Measured, dict[str, str]]:
    """One setting on every side; and each side's versions."""
    speeds: dict[str, dict[str, list[float]]] = {"forward": {}, "train": {}}
    whats = [what for what in ("forward", "train") if what in args.what]
    memory, versions = {}, {}

    def start(side: str) -> Peer:
        return Peer(side, command(side, pythons[side], setting), environment)

    if whats:
        with ExitStack() as stack:
            peers = [stack.enter_context(start(side)) for side in pythons]
            versions = {peer.side: peer.versions() for peer in peers}
            warm_up(peers, whats)
            for what, side, rate in take_turns(
                peers, whats, setting.batch, args.rounds, args.seconds
            ):
                speeds[what].setdefault(side, []).append(rate)
    if "memory" in args.what:
        for side in pythons:
            with start(side) as peer:
                versions[side] = peer.versions()
                replies = [peer.ask("train") for _ in range(WARM_UP + MEMORY_STEPS)]
            memory[side] = replies[-1]["peak_bytes"]
            say(f"{setting}: {side} peak memory {memory[side] / 1e6:.0f} MB")
    return Measured(setting, **speeds, memory=memory), versions


def command(side: str, python: str, setting: Setting) -> list[str]:
    """That starts the worker of a side."""
    arguments = (setting.variant, setting.size, setting.batch, setting.dropout)
    return worker_command(python, f"peer_{side.replace('-', '_')}", *arguments)


def ratio(ours: list[float], peer: list[float]) -> tuple[float, float, float]:
    """Of the medians; then the least and the most of the rounds' own ratios."""
    of_rounds = [a / b for a, b in zip(ours, peer, strict=True)]
    return median(ours) / median(peer), min(of_rounds), max(of_rounds)


def table(results: list[Measured], sides: Iterable[str]) -> str:
    """Markdown: median (least–most) of the rounds, and our ratio to each peer."""
    sides = list(sides)
    peers = [side for side in sides if side != "ours" and "ours" in sides]
    names = [NAMES[side] for side in sides] + [f"ours / {NAMES[side]}" for side in peers]
    rows = [["", *names]]
    for measured in results:
        for what in ("forward", "train"):
            rates = getattr(measured, what)
            if rates:
                cells = [spread(median(v), min(v), max(v)) for v in (rates[s] for s in sides)]
                cells += [spread(*ratio(rates["ours"], rates[s]), digits=2) for s in peers]
                rows.append([f"{measured.setting}: {what}, images/s", *cells])
        if peak := measured.memory:
            cells = [f"{peak[side] / 1e6:.0f}" for side in sides]
            cells += [f"{peak['ours'] / peak[side]:.2f}" for side in peers]
            rows.append([f"{measured.setting}: peak memory of training, MB", *cells])
    return markdown(rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; `settings` are the rows of the table."""
    parser = argparse.ArgumentParser(description="Compares speed and memory with the peers.")
    add = parser.add_argument
    add("--variant", choices=KNOWN, help="one row instead of those of the README")
    add("--size", type=positive(int), help="pixels; default: the variant's published ones")
    add("--batch", type=positive(int), help="images a step; default: the README's")
    add("--rounds", type=positive(int), default=7)
    add("--seconds", type=positive(float), default=2.0, help="of each turn, at least")
    add("--what", type=some_of(WHATS), default=WHATS, help=",".join(WHATS))
    add("--sides", type=some_of(NAMES), default=tuple(SIDES), help=",".join(NAMES))
    add_process_options(parser, default_malloc="heap-kept")
    add("--json", action="store_true", help="every round's figures in place of the table")
    args = parser.parse_args(arguments)
    if args.variant is None and (args.size or args.batch):
        parser.error("--size and --batch are those of a --variant; name it")
    if args.variant and args.variant not in README_BATCHES and not args.batch:
        parser.error(f"--variant {args.variant} is no row of the README; give its --batch")
    variants = [args.variant] if args.variant else list(README_BATCHES)
    args.settings = [
        Setting(
            variant,
            args.size or VARIANTS[variant].image_size,
            args.batch or README_BATCHES[variant],
            VARIANTS[variant].dropout,
        )
        for variant in variants
    ]
    return args


if __name__ == "__main__":
    run(main)
