"""Compares our speed of reading images with that of other loaders, and prints a table.

    python scripts/peers/compare_input.py                                    # everything
    python scripts/peers/compare_input.py --sides raw,ours,torch --rounds 3 --sizes 224
    python scripts/peers/compare_input.py --photos FOLDER --folder data/input

The images are cut from the photographs in --photos, by default the two of scikit-learn: 300 JPEGs
of 640x480 pixels with labels of 80 classes. They are written to --folder, where the next run finds
them. From the second round on they come from the system's file cache.

Every side reads the same files and yields full batches of 32, without end. Ours have the loaders
`threads`, `tf_data` and `grain`, each with whole images and flips, with random crops, and with
whole images, flips and two operations of RandAugment. Sides with a setting for it use one thread or
process per core (ours one thread more), except keras-flow, which has the one worker of `fit`. raw
decodes at full size and drops the result; no loader that decodes at full size with libjpeg-turbo
can be faster. The others resize as they do by default: ours decode at a fraction of the size and
then resize bilinearly; torch resizes with antialiasing, keras-flow to the nearest pixel,
keras-directory and grain-linear bilinearly without antialiasing, and grain by averaging. torch and
our crops take 8 % to 100 % of the area. Keras's sides yield float32, the others uint8.

Each side has its own process. It is started twice, and the second start is timed, from the start of
Python to the first batch; libraries, images and ours-cached's cache are then on this machine and in
the system's file cache. Then the sides take turns: in each round every side runs for a few seconds
while the others are stopped, and the order rotates. The beginning of each turn is not measured.
Memory is the peak of the side's process, plus what its child processes do not share with it at the
end.

Our sides run in the environment of this script, which needs TensorFlow and Grain (`pip install
'.[tf_data,grain]'`). The first run makes an environment for each peer (torch: 1 GB, Keras: 2 GB);
compare_peers.py uses the same ones. Linux only.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import peer_environments
import sklearn.datasets
from input_images import ensure_images, mean_kilobytes
from input_likeness import mean_likeness
from peer_options import Parser, add_process_options, positive, some_of, worker_environment
from peer_process import Peer, child_memory, worker_command
from peer_table import markdown, spread
from peer_turns import say, take_turns, warm_up
from peer_worker import cores

from mlcls_jax.cli import run

LIMIT = "raw"
BATCH = 32
PHOTOS = Path(sklearn.datasets.__file__).with_name("images")


@dataclass(frozen=True)
class Side:
    """A loader: name in the table, module, and environment ("" is the one of this script)."""

    name: str
    module: str
    environment: str = ""


SIDES = {
    LIMIT: Side("simplejpeg, full decoding only", "input_raw"),
    "keras-flow": Side("Keras `flow_from_dataframe`", "input_keras", "keras"),
    "keras-flow-threads": Side(
        "Keras `flow_from_dataframe`, workers = cores", "input_keras", "keras"
    ),
    "keras-directory": Side("Keras `image_dataset_from_directory`", "input_keras", "keras"),
    "torch": Side("torch `DataLoader`, Pillow, random crop", "input_torch", "timm"),
    "grain": Side("Grain, OpenCV area", "input_grain", "grain"),
    "grain-linear": Side("Grain, OpenCV linear", "input_grain", "grain"),
    "ours": Side("ours, threads", "input_ours"),
    "ours-crop": Side("ours, threads, random crop", "input_ours"),
    "ours-randaugment": Side("ours, threads, RandAugment", "input_ours"),
    "ours-tf-data": Side("ours, tf.data", "input_ours"),
    "ours-tf-data-crop": Side("ours, tf.data, random crop", "input_ours"),
    "ours-tf-data-randaugment": Side("ours, tf.data, RandAugment", "input_ours"),
    "ours-grain": Side("ours, Grain", "input_ours"),
    "ours-grain-crop": Side("ours, Grain, random crop", "input_ours"),
    "ours-grain-randaugment": Side("ours, Grain, RandAugment", "input_ours"),
    "ours-cached": Side("ours, threads, from the decoded cache on disk", "input_ours"),
}


@dataclass(frozen=True)
class Measured:
    """What was measured of a side at one size.

    Attributes:
        startup: seconds from the start of the process to its first batch.
        memory: peak bytes.
        rates: images/s of each round.
    """

    startup: float
    memory: int
    rates: list[float]


Results = dict[str, Measured]  # side -> what was measured


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    with TemporaryDirectory() as temporary:
        images = ensure_images(args.folder or Path(temporary), args.photos, args.images)
        folder = images[0].parent
        pythons = {side: python_of(side, args.environments) for side in args.sides}
        environment = worker_environment(args.malloc)
        results, versions = [], {}
        for size in args.sizes:
            measured, found = measure(folder, size, pythons, environment, args)
            results.append(measured)
            versions |= found
        print(table(results, args.sides, args.sizes))
        if any(SIDES[side].module == "input_ours" for side in args.sides):
            say("comparing our images with Pillow's")
            print(f"\n{likeness_table(mean_likeness(images, args.sizes), args.sizes)}")
        setup = [
            f"{cores()} cores",
            f"malloc: {environment.get('GLIBC_TUNABLES', 'plain')}",
            f"{len(images)} images of {mean_kilobytes(images):.1f} KB",
            *dict.fromkeys(versions.values()),
        ]
        print(f"\n{'; '.join(setup)}")
    return 0


def python_of(side: str, environments: Path) -> str:
    """Returns the Python of the side's environment, which is made if necessary."""
    if not SIDES[side].environment:
        return sys.executable
    return peer_environments.python_of(SIDES[side].environment, environments)


def measure(
    folder: Path,
    size: int,
    pythons: dict[str, str],
    environment: dict[str, str],
    args: argparse.Namespace,
) -> tuple[Results, dict[str, str]]:
    """Measures every side at one size, and returns the results and the sides' versions."""
    rates: dict[str, list[float]] = {side: [] for side in pythons}
    startup, versions = {}, {}
    with ExitStack() as stack:
        peers = []
        for side, python in pythons.items():
            command = worker_command(python, SIDES[side].module, side, str(folder), size, BATCH)
            with Peer(side, command, environment) as first:
                first.versions()
            start = time.perf_counter()
            peer = stack.enter_context(Peer(side, command, environment))
            versions[side] = peer.versions()
            peer.ask("batch")
            startup[side] = time.perf_counter() - start
            say(f"{size} px: {side} started in {startup[side]:.1f} s")
            peers.append(peer)
        warm_up(peers, ["batch"])
        for _, side, rate in take_turns(peers, ["batch"], BATCH, args.rounds, args.seconds):
            rates[side].append(rate)
        memory = {
            peer.side: peer.ask("batch")["peak_bytes"] + child_memory(peer.pid) for peer in peers
        }
    return {side: Measured(startup[side], memory[side], rates[side]) for side in pythons}, versions


def table(results: list[Results], sides: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """Returns a table in Markdown.

    For each size it has the median (least–most) of the rounds, the median of their ratios to LIMIT,
    and the start and the memory.
    """
    head = [""]
    for size in sizes:
        head += [f"{size} px, images/s", "of the limit", "start, s", "memory, MB"]
    rows = [head]
    for side in sides:
        row = [SIDES[side].name]
        for by_side in results:
            found, limit = by_side[side], by_side.get(LIMIT)
            row.append(spread(median(found.rates), min(found.rates), max(found.rates)))
            row.append(f"{ratio(found.rates, limit.rates):.2f}" if limit else "–")
            row += [f"{found.startup:.1f}", f"{found.memory / 1e6:.0f}"]
        rows.append(row)
    return markdown(rows)


def ratio(rates: list[float], limits: list[float]) -> float:
    """Returns the median of the rounds' ratios."""
    return median(rate / limit for rate, limit in zip(rates, limits, strict=True))


def likeness_table(likeness: dict[str, list[float]], sizes: tuple[int, ...]) -> str:
    """Returns a table in Markdown with the mean PSNR for each interpolation and size."""
    rows = [["ours compared with Pillow", *(f"{size} px, dB" for size in sizes)]]
    for name, decibels in likeness.items():
        rows.append([name, *(f"{value:.1f}" for value in decibels)])
    return markdown(rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the options."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "--sides",
        type=some_of(SIDES),
        default=tuple(SIDES),
        help=f"comma-separated (default: {','.join(SIDES)})",
    )
    add(
        "--sizes",
        type=_sizes,
        default=(224, 456),
        help="comma-separated image sizes in pixels (default: 224,456)",
    )
    add("--rounds", type=positive(int), default=7, help="number of rounds (default 7)")
    add("--seconds", type=positive(float), default=2.0, help="least length of a turn (default 2)")
    add("--photos", type=Path, default=PHOTOS, help="folder of photographs to cut images from")
    add("--images", type=positive(int), default=300, help="number of images to cut (default 300)")
    add("--folder", type=Path, help="folder for the images (default: temporary)")
    add_process_options(parser, default_malloc="plain")
    return parser.parse_args(arguments)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive(int)(size) for size in text.split(",")))


if __name__ == "__main__":
    run(main)
