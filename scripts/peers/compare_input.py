"""Compares how fast images become batches, here and elsewhere, and prints a table.

    python scripts/peers/compare_input.py                                    # everything
    python scripts/peers/compare_input.py --sides raw,ours,torch --rounds 3 --sizes 224
    python scripts/peers/compare_input.py --photos FOLDER --folder data/input

The images are cut from the photographs in --photos, by default scikit-learn's two: 300 JPEGs of
640x480 pixels with labels of 80 classes.  They are written to --folder, and found there by the next
run.  After the first round they come from the system's cache of files.

Every side reads the same files and hands over full batches of 32, endlessly; where it may choose,
it uses as many threads or processes as there are cores (ours one thread more), but for keras-flow,
which has the one worker that `fit` gives it.  raw decodes at full size and drops the result: what
decodes at full size with libjpeg-turbo is not faster.  The others resize as they do by default:
ours by decoding at a fraction and then bilinearly, torch with antialiasing, keras-flow to the
nearest pixel, keras-directory bilinearly without antialiasing, like grain-linear; grain averages.
torch and ours-crop take a random part of each image, of 8 % to all of its area.  Keras's sides
hand over float32, the others uint8.

Each side has a process of its own.  They take turns: in each round every side runs for some seconds
while the others are stopped, and who begins changes; the beginning of each turn does not count.
The peers get an environment each at the first run (torch: 1 GB, Keras: 2 GB), those of
compare_peers.py.  Linux only.
"""

import argparse
import sys
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
from peer_process import Peer, worker_command
from peer_table import markdown, spread
from peer_turns import say, take_turns, warm_up
from peer_worker import cores

from mlcls_jax.cli import run

LIMIT = "raw"
BATCH = 32
PHOTOS = Path(sklearn.datasets.__file__).with_name("images")


@dataclass(frozen=True)
class Side:
    """Its name in the table, its module, and the environment that it needs; "": ours."""

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
    "ours": Side("ours", "input_ours"),
    "ours-crop": Side("ours, random crop", "input_ours"),
    "ours-cached": Side("ours, from the decoded cache on disk", "input_ours"),
}

Rates = dict[str, list[float]]  # side -> images/s of each round


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    with TemporaryDirectory() as temporary:
        images = ensure_images(args.folder or Path(temporary), args.photos, args.images)
        folder = images[0].parent
        pythons = {side: python_of(side, args.environments) for side in args.sides}
        environment = worker_environment(args.malloc)
        rates, versions = [], {}
        for size in args.sizes:
            measured, found = measure(folder, size, pythons, environment, args)
            rates.append(measured)
            versions |= found
        print(table(rates, args.sides, args.sizes))
        if any(SIDES[side].module == "input_ours" for side in args.sides):
            say("comparing our images with Pillow's")
            print(f"\n{likeness_table(mean_likeness(images, args.sizes), args.sizes)}")
        about = [
            f"{cores()} cores",
            f"malloc: {environment.get('GLIBC_TUNABLES', 'plain')}",
            f"{len(images)} images of {mean_kilobytes(images):.1f} KB",
            *dict.fromkeys(versions.values()),
        ]
        print(f"\n{'; '.join(about)}")
    return 0


def python_of(side: str, environments: Path) -> str:
    """Of the side's environment, which is made if need be."""
    if not SIDES[side].environment:
        return sys.executable
    return peer_environments.python_of(SIDES[side].environment, environments)


def measure(
    folder: Path,
    size: int,
    pythons: dict[str, str],
    environment: dict[str, str],
    args: argparse.Namespace,
) -> tuple[Rates, dict[str, str]]:
    """One size on every side; and each side's versions."""
    rates: Rates = {side: [] for side in pythons}
    with ExitStack() as stack:
        peers = []
        for side, python in pythons.items():
            command = worker_command(python, SIDES[side].module, side, str(folder), size, BATCH)
            peers.append(stack.enter_context(Peer(side, command, environment)))
        versions = {peer.side: peer.versions() for peer in peers}
        warm_up(peers, ["batch"])
        say(f"{size} px")
        for _, side, rate in take_turns(peers, ["batch"], BATCH, args.rounds, args.seconds):
            rates[side].append(rate)
    return rates, versions


def table(rates: list[Rates], sides: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """Markdown: for each size the median (least–most) of the rounds, and of their own ratios."""
    has_limit = LIMIT in sides
    head = [""]
    for size in sizes:
        head += [f"{size} px, images/s", *(["of the limit"] if has_limit else [])]
    rows = [head]
    for side in sides:
        row = [SIDES[side].name]
        for of_size in rates:
            of_side = of_size[side]
            row.append(spread(median(of_side), min(of_side), max(of_side)))
            if has_limit:
                row.append(f"{ratio(of_side, of_size[LIMIT]):.2f}")
        rows.append(row)
    return markdown(rows)


def ratio(rates: list[float], limits: list[float]) -> float:
    """Median of the rounds' own."""
    return median(rate / limit for rate, limit in zip(rates, limits, strict=True))


def likeness_table(likeness: dict[str, list[float]], sizes: tuple[int, ...]) -> str:
    """Markdown: mean PSNR for each interpolation and size."""
    head = ["ours beside Pillow", *(f"{size} px, dB" for size in sizes)]
    return markdown([head, *([name, *(f"{v:.1f}" for v in of)] for name, of in likeness.items())])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = Parser(description="Compares the speed of reading images with others'.")
    add = parser.add_argument
    add("--sides", type=some_of(SIDES), default=tuple(SIDES), help=",".join(SIDES))
    add("--sizes", type=_sizes, default=(224, 456), help="pixels, with commas in between")
    add("--rounds", type=positive(int), default=7)
    add("--seconds", type=positive(float), default=2.0, help="of each turn, at least")
    add("--photos", type=Path, default=PHOTOS, help="folder of photographs to cut images from")
    add("--images", type=positive(int), default=300, help="how many to cut")
    add("--folder", type=Path, help="of the images; default: a temporary one")
    add_process_options(parser, default_malloc="plain")
    return parser.parse_args(arguments)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive(int)(size) for size in text.split(",")))


if __name__ == "__main__":
    run(main)
