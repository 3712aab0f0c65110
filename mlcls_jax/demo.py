"""Makes the demo's images: handwritten digits on crops of two photographs.

mlcls-jax demo
mlcls-jax demo --out other/folder

Digits and photographs ship with scikit-learn, so nothing is downloaded. Each image contains one to
four different digits at random positions, in random sizes and colours; its labels name these
digits. The two splits share no drawing of a digit and no region of a photograph. The output is a
CSV and a folder, as a user of the trainer would have them:

    data/demo/labels.csv   filename,zero,one,…,nine,split
    data/demo/images/      train_00000.jpg, …

The same arguments give the same images. A complete data set is not written again. The CSV is
written last, so a data set without it is incomplete and is made from scratch.
"""

import colorsys
import csv
import io
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.config.named import DEMO
from mlcls_jax.config.options import Parser
from mlcls_jax.system import command_line
from mlcls_jax.system.files import write_text
from mlcls_jax.system.invocation import command

MOST_IMAGES = 100_000  # of a split; five digits number them
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "val")
HEADER = ("filename", *CLASSES, "split")
IMAGE_SIZE = 128

# Train uses the first 70 % of each photograph's columns and of the drawings; val uses the rest.
# The drawings are ordered by writer, so most writers are in one split only.
TRAIN_SHARE = 0.7
CROP_SIDES = (96, 190)
DIGIT_SIZES = (40, 68)
SMALLER_PER_DIGIT = 8  # four of the largest digits would not fit
MOST_DIGITS = 4
MOST_OVERLAP = 0.15  # share of the smaller digit's square
_LAYDEMOS = 64
LARGEST_ANGLE = 15.0
LEAST_CONTRAST = 0.35
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Digit:
    """One drawing and its placement; `sample` is its index in scikit-learn's digits."""

    sample: int
    value: int
    left: int
    top: int
    size: int
    angle: float
    hue: float
    saturation: float


@dataclass(frozen=True)
class Scene:
    """Everything random about one image; `crop` is (left, top, side) in the photograph."""

    name: str
    split: str
    photo: int
    crop: tuple[int, int, int]
    mirrored: bool
    brightness: float
    digits: tuple[Digit, ...]

    @property
    def row(self) -> list[str]:
        """The image's row in the CSV."""
        present = {digit.value for digit in self.digits}
        return [self.name, *(str(int(value in present)) for value in range(10)), self.split]


def plan(train: int, val: int, seed: int) -> Iterator[Scene]:
    """Yields the scenes; each depends on seed, split and index only, not on the counts."""
    _, values = load_drawings()
    widths = [(photo.shape[1], photo.shape[0]) for photo in load_photos()]
    first_val = int(TRAIN_SHARE * len(values))
    for split, count in zip(SPLITS, (train, val), strict=True):
        in_split = range(first_val) if split == "train" else range(first_val, len(values))
        samples = [[i for i in in_split if values[i] == value] for value in range(10)]
        for index in range(count):
            rng = np.random.default_rng([seed, SPLITS.index(split), index])
            photo = int(rng.integers(len(widths)))
            yield Scene(
                name=f"{split}_{index:05d}.jpg",
                split=split,
                photo=photo,
                crop=_draw_crop(rng, *widths[photo], split),
                mirrored=bool(rng.random() < 0.5),
                brightness=float(rng.uniform(0.7, 1.2)),
                digits=_draw_digits(rng, samples),
            )


def load_drawings() -> tuple[np.ndarray, np.ndarray]:
    """Returns scikit-learn's digits, float [n, 8, 8] from 0 to 16, and the value of each."""
    from sklearn.datasets import load_digits  # takes a second, and a refused command needs none

    pixels, values = load_digits(return_X_y=True)
    return np.reshape(pixels, (-1, 8, 8)), np.asarray(values)


def load_photos() -> list[np.ndarray]:
    """Returns scikit-learn's two photographs, uint8 [height, width, 3] each."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def _draw_crop(rng, width: int, height: int, split: str) -> tuple[int, int, int]:
    border = int(TRAIN_SHARE * width)
    low, high = (0, border) if split == "train" else (border, width)
    side = int(rng.integers(CROP_SIDES[0], CROP_SIDES[1] + 1))
    left = int(rng.integers(low, high - side + 1))
    return left, int(rng.integers(0, height - side + 1)), side


def _draw_digits(rng, samples: list[list[int]]) -> tuple[Digit, ...]:
    values = rng.permutation(10)[: rng.integers(1, MOST_DIGITS + 1)]
    return tuple(
        Digit(
            sample=int(rng.choice(samples[value])),
            value=int(value),
            left=left,
            top=top,
            size=size,
            angle=float(rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)),
            hue=float(rng.random()),
            saturation=float(rng.uniform(0.2, 1.0)),
        )
        for value, (left, top, size) in zip(values, _draw_boxes(rng, len(values)), strict=True)
    )


def _draw_boxes(rng, count: int) -> list[tuple[int, int, int]]:
    """(left, top, size) of squares with little overlap; the largest size falls with the count."""
    largest = DIGIT_SIZES[1] - SMALLER_PER_DIGIT * (count - 1)
    while True:
        # Draw all squares of a layout together, because large ones may leave no room for another,
        # and draw many layouts at once, because most attempts fail.
        sizes = rng.integers(DIGIT_SIZES[0], largest + 1, (_LAYDEMOS, count))
        room = IMAGE_SIZE - sizes[:, :, None] + 1
        corners = rng.integers(0, room, (_LAYDEMOS, count, 2))
        ends = corners + sizes[:, :, None]
        fits = np.ones(_LAYDEMOS, bool)
        for one, other in combinations(range(count), 2):
            low = np.maximum(corners[:, one], corners[:, other])
            high = np.minimum(ends[:, one], ends[:, other])
            shared = np.prod(np.maximum(high - low, 0), axis=1)
            fits &= shared <= MOST_OVERLAP * np.minimum(sizes[:, one], sizes[:, other]) ** 2
        if fits.any():
            first = np.argmax(fits)
            boxes = np.column_stack([corners[first], sizes[first]]).tolist()
            return [(left, top, size) for left, top, size in boxes]


def render(scene: Scene, drawings: np.ndarray, photos: list[np.ndarray]) -> Image.Image:
    """Paints a scene.

    Args:
        scene: from `plan`.
        drawings: scikit-learn's digits, float [n, 8, 8] from 0 to 16.
        photos: uint8 [height, width, 3] each.

    Returns:
        An RGB image of IMAGE_SIZE × IMAGE_SIZE pixels.
    """
    left, top, side = scene.crop
    crop = Image.fromarray(photos[scene.photo][top : top + side, left : left + side])
    crop = crop.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    canvas = np.asarray(crop, np.float64) / 255
    canvas = np.clip(canvas[:, ::-1] if scene.mirrored else canvas, 0, 1) * scene.brightness
    canvas = np.clip(canvas, 0, 1)
    for digit in scene.digits:
        place = np.s_[digit.top : digit.top + digit.size, digit.left : digit.left + digit.size]
        opacity = _opacity(drawings[digit.sample], digit)[..., None]
        behind = (canvas[place] * opacity).sum((0, 1)) / opacity.sum()
        canvas[place] += opacity * (_tint(digit, float(behind @ _LUMA)) - canvas[place])
    return Image.fromarray(np.round(canvas * 255).astype(np.uint8))


def _opacity(drawing: np.ndarray, digit: Digit) -> np.ndarray:
    """The strokes of a drawing, enlarged with smooth edges: float [size, size] from 0 to 1."""
    # The border keeps the ends of the strokes inside when the drawing is rotated.
    small = Image.fromarray(np.pad(drawing / 16, 1).astype(np.float32))
    large = small.resize((digit.size, digit.size), Image.Resampling.BICUBIC)
    strokes = np.asarray(large.rotate(digit.angle, Image.Resampling.BICUBIC), np.float64)
    ramp = np.clip((strokes - 0.25) / 0.35, 0, 1)
    return ramp**2 * (3 - 2 * ramp)


def _tint(digit: Digit, behind: float) -> np.ndarray:
    """The digit's colour, lightened or darkened until it contrasts with the background."""
    tint = np.array(colorsys.hsv_to_rgb(digit.hue, digit.saturation, 0.8))
    goal = np.zeros(3) if behind > 0.5 else np.ones(3)
    for share in np.linspace(0, 1, 21):
        mixed = tint + share * (goal - tint)
        if abs(mixed @ _LUMA - behind) >= LEAST_CONTRAST:
            return mixed
    return goal


def labels_text(scenes: list[Scene]) -> str:
    """Returns the text of labels.csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *(scene.row for scene in scenes)])
    return text.getvalue()


def make(out: Path, *, train: int, val: int, seed: int) -> bool:
    """Writes the data set to `out`, unless it already exists.

    Args:
        out: folder to write to.
        train: number of training images.
        val: number of validation images.
        seed: random seed.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: a count or the seed is out of range, or `out` contains other data.
    """
    for name, value in (("--train", train), ("--val", val)):
        if not 1 <= value <= MOST_IMAGES:
            raise ValueError(f"{name} is {value}; use 1 to {MOST_IMAGES}")
    if seed < 0:
        raise ValueError(f"--seed is {seed}; use 0 or more")
    table, folder = out / "labels.csv", out / "images"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose a folder for --out")
    written = table.read_text(encoding="utf-8", errors="replace") if table.exists() else None
    if written is not None and written.split("\n", 1)[0] != ",".join(HEADER):
        raise ValueError(f"{table} isn't the demo's; choose another folder for --out")
    scenes = list(plan(train, val, seed))
    text = labels_text(scenes)
    if written == text and all((folder / scene.name).is_file() for scene in scenes):
        return False
    # Without a CSV the data count as incomplete, in case this is interrupted.
    table.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        for old in folder.glob(f"{split}_[0-9][0-9][0-9][0-9][0-9].jpg"):
            old.unlink()
    (drawings, _), photos = load_drawings(), load_photos()
    for scene in scenes:
        render(scene, drawings, photos).save(folder / scene.name, quality=90)
    write_text(table, text)
    return True


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = Parser(
        prog=command("demo"),
        description="Makes the demo's images and labels: handwritten digits on photographs.",
    )
    parser.add_argument(
        "--out", type=Path, default=DEMO, help=f"folder to write to (default {DEMO})"
    )
    parser.add_argument("--train", type=int, default=1600, help="training images (default 1600)")
    parser.add_argument("--val", type=int, default=400, help="validation images (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="it decides the images (default 0)")
    options = parser.parse_args(argv)
    is_new = make(options.out, train=options.train, val=options.val, seed=options.seed)
    done = "Wrote" if is_new else "Nothing to do; already complete:"
    print(
        f"{done} {options.train} training and {options.val} validation images in {options.out}; "
        f"next: {command('train')} --config demo --workdir runs/demo{_data_options(options.out)}"
    )
    return 0


def _data_options(out: Path) -> str:
    """Returns the overrides that name the data, which the config finds without them in DEMO."""
    if out == DEMO:
        return ""
    overrides = (
        f"--config.data.csv={out / 'labels.csv'}",
        f"--config.data.images={out / 'images'}",
    )
    return f" {shlex.join(overrides)}"


if __name__ == "__main__":
    command_line.run(main)
