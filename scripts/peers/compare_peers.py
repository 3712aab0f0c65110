"""Compares our speed and memory on the CPU with timm and Keras, and prints a table.

    python scripts/peers/compare_peers.py                               # B0 and B5
    python scripts/peers/compare_peers.py --variant b0 --what forward,train --rounds 3
    python scripts/peers/compare_peers.py --variant b0 --size 128 --batch 32 --malloc plain --json

The first run makes an environment for each peer (timm: 1 GB, Keras: 2 GB). If pip would install
torch for CUDA, set PIP_EXTRA_INDEX_URL to the index of CPU wheels.

Every side does the same work: float32, one uint8 batch that is already in memory, normalised in the
step; everything trains, with the statistics of the batch, dropout and drop path as published,
binary cross-entropy over 80 classes, and AdamW without clipping. The script waits for each step.
The peers are as fast as we can make them: timm with channels last, fused AdamW and inference mode;
Keras with one graph per step and none of its metrics.

Each side has its own process. The sides take turns: in each round every side runs for a few seconds
while the others are stopped, and the order rotates. The first steps, in which programs compile, are
not measured. Neither is the beginning of each turn, because a process that was stopped is slower at
first. Peak memory is measured in separate processes, one at a time, that only train; ours finds its
compiled programs in the cache if it has trained before.

Other sides: keras-xla is Keras with its graphs compiled by XLA, timm-compiled is timm with
torch.compile (which needs a C++ compiler), and ours-bfloat16 and timm-bfloat16 compute in bfloat16.
Linux only.
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

TABLE_BATCHES = {"b0": 16, "b5": 2}  # the rows of the table in docs/performance.md
KNOWN = [f"b{number}" for number in range(8)]  # variants that every side has
SIDES = {"ours": "ours", "timm": "timm on torch", "keras": "Keras on TensorFlow"}
OTHERS = {
    "ours-bfloat16": "ours, bfloat16",
    "timm-bfloat16": "timm on torch, bfloat16",
    "timm-compiled": "timm, torch.compile",
    "keras-xla": "Keras on TensorFlow, XLA",
}
NAMES = SIDES | OTHERS
WHATS = ("forward", "train", "memory")
MEMORY_STEPS = 4


@dataclass(frozen=True)
class Setting:
    """The work of every side: variant, image size in pixels, images per step, dropout rate."""

    variant: str
    size: int
    batch: int
    dropout: float

    def __str__(self) -> str:
        return f"{self.variant.upper()}, {self.size} px, batch {self.batch}"


@dataclass(frozen=True)
class Measured:
    """Results for one setting.

    Attributes:
        setting: the work.
        forward: {side: images/s of each round} of evaluation.
        train: {side: images/s of each round} of training.
        memory: {side: peak bytes of training}.
    """

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
    setup = {
        "malloc": environment.get("GLIBC_TUNABLES", "plain"),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }
    if args.json:
        print(json.dumps(setup | {"results": [asdict(measured) for measured in results]}, indent=2))
    else:
        print(table(results, args.sides))
        print(
            f"\n{setup['cores']} cores; malloc: {setup['malloc']}; {', '.join(versions.values())}"
        )
    return 0


def python_of(side: str, environments: Path) -> str:
    """Returns the Python of the side's environment, which is made if necessary."""
    library = side.partition("-")[0]
    if library == "ours":
        return sys.executable
    return peer_environments.python_of(library, environments)


def measure(
    setting: Setting, pythons: dict[str, str], environment: dict[str, str], args: argparse.Namespace
) -> tuple[Measured, dict[str, str]]:
    """Measures one setting on every side, and returns the results and the sides' versions."""
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
    """Returns the command that starts the worker of a side."""
    arguments = (setting.variant, setting.size, setting.batch, setting.dropout)
    return worker_command(python, f"peer_{side.replace('-', '_')}", *arguments)


def ratio(ours: list[float], peer: list[float]) -> tuple[float, float, float]:
    """Returns the ratio of the medians, and the least and most ratio of a round."""
    round_ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return median(ours) / median(peer), min(round_ratios), max(round_ratios)


def table(results: list[Measured], sides: Iterable[str]) -> str:
    """Returns a table in Markdown: median (least–most) of the rounds, and ratios to each peer."""
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
    """Parses the options; `settings` are the rows of the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--variant", choices=KNOWN, help="measure this network instead of B0 and B5")
    add("--size", type=positive(int), help="image size in pixels; default: the published size")
    add("--batch", type=positive(int), help="images per step; default for B0: 16, for B5: 2")
    add("--rounds", type=positive(int), default=7, help="number of rounds (default 7)")
    add("--seconds", type=positive(float), default=2.0, help="least length of a turn (default 2)")
    add(
        "--what",
        type=some_of(WHATS),
        default=WHATS,
        help=f"comma-separated (default: {','.join(WHATS)})",
    )
    add(
        "--sides",
        type=some_of(NAMES),
        default=tuple(SIDES),
        help=f"some of {','.join(NAMES)} (default: {','.join(SIDES)})",
    )
    add_process_options(parser, default_malloc="heap-kept")
    add("--json", action="store_true", help="print every round's figures instead of the table")
    args = parser.parse_args(arguments)
    if args.variant is None and (args.size or args.batch):
        parser.error("--size and --batch need a --variant")
    if args.variant and args.variant not in TABLE_BATCHES and not args.batch:
        parser.error(f"--variant {args.variant} has no default batch; set --batch")
    variants = [args.variant] if args.variant else list(TABLE_BATCHES)
    args.settings = [
        Setting(
            variant,
            args.size or VARIANTS[variant].image_size,
            args.batch or TABLE_BATCHES[variant],
            VARIANTS[variant].dropout,
        )
        for variant in variants
    ]
    return args


if __name__ == "__main__":
    run(main)
