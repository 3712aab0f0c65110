"""Makes images composed of photographic cut-outs, with exact labels, to measure learning on.

    apt-get download tuxpaint-stamps-default        # Debian; written for version 2022.06.04-1
    dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python scripts/learning/make_composed_data.py --out data/composed \\
        --stamps stamps/usr/share/tuxpaint/stamps

The package is under the GPL, version 2, so neither it nor the images belong in this repository.
Its drawings and cartoons are left out: CUT_OUTS lists the photographs.

Each image shows one to five cut-outs of different classes on a blurred background. They may
overlap a little, and each stays visible. A class's cut-outs are split into five groups, and the
images of fold k show group k only, so no object is in two folds. The output:

    data/composed/labels.csv   filename,bird,sea_animal,…,container,fold
    data/composed/images/      composed_00000.jpg, …

The same arguments and package give the same images. Without the CSV, a data set is incomplete.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# "class:", then "folder/" and names in it without .png, or a pattern for the others. Names joined
# by + are the same animal or thing on two photographs, or may be, and share a group.
CUT_OUTS = """
bird: animals/birds/ heron_greatblue+heron_greatblue_flying *
sea_animal: animals/fish/ * animals/mammals/aquatic/ dolphin orca sea_lion whale
    animals/shellfish/ *
insect_frog_slug: animals/insects/ [!b]* animals/amphibians/ * animals/lizards/ *
cattle: animals/mammals/bovines/ gnu-baby+gnu-baby-stand gnu-sitting+gnu-stand bison bull cow
    cow_white yak zebu
sheep_goat_deer: animals/mammals/bovines/ goat indian_blackbuck mountaingoat ram sheep sheep_lamb
    animals/mammals/deer/ *
horse_camel_pig: animals/mammals/equines/ * animals/mammals/camel/ * animals/mammals/ hippopotamus
    pig pig_golden+pig_golden2 rhino_black wildboar
carnivore: animals/mammals/ badger ferret animals/mammals/aquatic/ otter animals/mammals/bears/ *
    animals/mammals/cats/ lion+lion-2 tiger tiger_sumatran animals/mammals/dogs/ *
rodent_rabbit_marsupial: animals/mammals/ rabbit_little animals/mammals/rodents/ *
    animals/marsupials/ *
fruit: food/fruit/ apple_green+apple_red *
vegetable: food/vegetables/ *
flower: plants/flowers/ *
tree_or_shrub: plants/ eggplant lavender lettuce_bolted thyme plants/trees/ birch holly_leaves
    holm_oak liberia-palm tree336 seasonal/christmas/ Christmas_Tree_photo
musical_instrument: hobbies/music/brass/ * hobbies/music/percussion/ * hobbies/music/string/ *
    hobbies/music/wind/ *
tool: household/tools/ hammer mallet_metal measuring_tape paintbrush_large plyers saw spade wrench
    wrench_plumbers household/arttools/ scissors_small_closed+scissors_small_open
land_vehicle: vehicles/ garbagetruck vehicles/auto/ * vehicles/construction/ dumper vehicles/cycle/
    * vehicles/emergency/ firetruck vehicles/masstransit/ * vehicles/race/ * military/vehicles/
    bradley infantry-stryker
coin: symbols/money/canadian/coins/ * symbols/money/japanese/ * symbols/money/us/coins/ *
gravestone: seasonal/halloween/ grave-*
planet_or_moon: space/moon/ moon_full space/planets/ [1-9]_*
container: household/ cylinder garbagecan home_compost_bin kettle wheelie_bin household/dishes/ mug
    pitcher_small teapot household/tools/ toolbox town/ uk_post_box usps_mailbox
"""
CLASSES = tuple(token[:-1] for token in CUT_OUTS.split() if token.endswith(":"))
HEADER = ("filename", *CLASSES, "fold")

FOLDS, MOST_OBJECTS = 5, 5
SMALLEST, LARGEST = 0.3, 0.6  # share of the image's side
SMALLER_PER_OBJECT = 0.06  # the largest ones would leave no room for others
MOST_ENLARGED = 2.0  # some cut-outs have 50 pixels
LARGEST_ANGLE, LEAST_VISIBLE = 15.0, 0.6
_TRIES, _KEPT_PIXELS = 40, 400
_HINT = "use usr/share/tuxpaint/stamps of the package tuxpaint-stamps-default"


@dataclass(frozen=True)
class CutOut:
    """One photograph of an object."""

    label: str
    path: Path


@dataclass(frozen=True)
class Scene:
    """What one image shows; `render` draws the rest from the seed and the index."""

    index: int
    seed: int
    fold: int
    objects: tuple[CutOut, ...]

    @property
    def name(self) -> str:
        """The image's file name."""
        return f"composed_{self.index:05d}.jpg"

    @property
    def row(self) -> list[str]:
        """The image's row in the CSV."""
        present = {cut_out.label for cut_out in self.objects}
        return [self.name, *(str(int(label in present)) for label in CLASSES), str(self.fold)]


def find_objects(stamps: Path) -> dict[str, list[list[CutOut]]]:
    """Returns the objects of each class, each with its photographs.

    Raises:
        ValueError: a photograph of CUT_OUTS is missing, or a class has too few.
    """
    objects: dict[str, list[list[CutOut]]] = {label: [] for label in CLASSES}
    label, folder, named = "", stamps, set()
    for token in CUT_OUTS.split():
        if token.endswith(":"):
            label = token[:-1]
        elif token.endswith("/"):
            folder, named = stamps / token, set()
        elif "*" in token:
            rest = sorted(path for path in folder.glob(f"{token}.png") if path.stem not in named)
            objects[label] += [[CutOut(label, path)] for path in rest]
        else:
            paths = [folder / f"{name}.png" for name in token.split("+")]
            named |= {path.stem for path in paths}
            if missing := [path for path in paths if not path.is_file()]:
                raise ValueError(f"{missing[0]} is missing; {_HINT}")
            objects[label].append([CutOut(label, path) for path in paths])
    for label, found in objects.items():
        if len(found) < FOLDS:
            raise ValueError(f"{stamps} has too few objects of {label}: {len(found)}; {_HINT}")
    return objects


def find_groups(stamps: Path, seed: int) -> dict[str, list[list[CutOut]]]:
    """Returns the cut-outs of each class, split into one group per fold."""
    groups: dict[str, list[list[CutOut]]] = {}
    for number, (label, objects) in enumerate(find_objects(stamps).items()):
        order = np.random.default_rng([seed, 2, number]).permutation(len(objects))
        groups[label] = [
            [photo for i in order[fold::FOLDS] for photo in objects[i]] for fold in range(FOLDS)
        ]
    return groups


def plan(groups: dict[str, list[list[CutOut]]], images: int, seed: int) -> Iterator[Scene]:
    """Yields the scenes; each depends on the groups, seed and index only, not on the count."""
    for index in range(images):
        rng, fold = np.random.default_rng([seed, 0, index]), index % FOLDS
        labels = rng.permutation(CLASSES)[: rng.integers(1, MOST_OBJECTS + 1)]
        pools = [groups[str(label)][fold] for label in labels]
        objects = tuple(pool[rng.integers(len(pool))] for pool in pools)
        yield Scene(index, seed, fold, objects)


def render(scene: Scene, size: int) -> Image.Image:
    """Returns the scene as an RGB image of size × size pixels."""
    rng = np.random.default_rng([scene.seed, 1, scene.index])
    canvas = _background(rng, size)
    largest = LARGEST - SMALLER_PER_OBJECT * (len(scene.objects) - 1)
    sides = size * rng.uniform(SMALLEST, largest, len(scene.objects))
    patches = [_patch(rng, c.path, s) for c, s in zip(scene.objects, sides, strict=True)]
    for patch, left, top in _arrange(rng, patches, size):
        canvas.paste(patch, (left, top), patch)
    return canvas


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """A gradient of two muted colours, with noise that is coarse first and fine last."""
    one, other = rng.uniform(40, 200) + rng.uniform(-40, 40, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    ramp = 0.5 + 0.7 * (np.cos(angle) * columns + np.sin(angle) * rows)
    canvas = one + ramp[..., None] * (other - one)
    strength = rng.uniform(10, 35)
    for power in range(1, int(rng.integers(4, 7))):
        grey, colour = rng.normal(size=(2**power, 2**power, 1)), rng.normal(size=(2**power,) * 2)
        tint = rng.uniform(-0.5, 0.5, 3)
        noise = (grey + colour[..., None] * tint).astype(np.float32)
        layers = [Image.fromarray(noise[..., channel]) for channel in range(3)]
        smooth = [np.asarray(a.resize((size, size), Image.Resampling.BICUBIC)) for a in layers]
        canvas = canvas + strength * 0.65**power * np.stack(smooth, -1)
    canvas += rng.normal(0, rng.uniform(1, 4), (size, size, 1))
    return Image.fromarray(np.clip(np.round(canvas), 0, 255).astype(np.uint8))


@cache
def _load(path: Path) -> Image.Image:
    """The visible part of a cut-out, RGBA; it is cached because it is used often."""
    with Image.open(path) as file:
        image = file.convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"{path} is fully transparent; get the package again")
    image = image.crop(box)
    image.thumbnail((_KEPT_PIXELS, _KEPT_PIXELS))
    return image


def _patch(rng: np.random.Generator, path: Path, side: float) -> Image.Image:
    """A cut-out with a longer side of about `side` pixels, turned, and perhaps mirrored."""
    image = _load(path)
    scale = min(side / max(image.size), MOST_ENLARGED)
    width, height = (max(1, round(scale * length)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = float(rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
    pixels = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, expand=True), np.float64)
    brightness = np.array([*[rng.uniform(0.8, 1.15)] * 3, 1])
    return Image.fromarray(np.clip(np.round(pixels * brightness), 0, 255).astype(np.uint8))


def _arrange(
    rng: np.random.Generator, patches: list[Image.Image], size: int
) -> list[tuple[Image.Image, int, int]]:
    """(patch, left, top) in painting order; patches that don't fit get smaller until they do."""
    while True:
        for _ in range(_TRIES):
            rooms = [(size - patch.width + 1, size - patch.height + 1) for patch in patches]
            if min(min(room) for room in rooms) < 1:
                break
            placed = [
                (patch, int(rng.integers(across)), int(rng.integers(down)))
                for patch, (across, down) in zip(patches, rooms, strict=True)
            ]
            if min(visible_shares(placed, size)) >= LEAST_VISIBLE:
                return placed
        patches = [ImageOps.scale(patch, 0.9) for patch in patches]


def visible_shares(placed: list[tuple[Image.Image, int, int]], size: int) -> list[float]:
    """Returns the share of each patch's opacity that no later patch covers."""
    free, shares = np.ones((size, size)), []
    for patch, left, top in reversed(placed):
        alpha = np.asarray(patch.getchannel("A"), np.float64) / 255
        place = np.s_[top : top + patch.height, left : left + patch.width]
        shares.append(float((alpha * free[place]).sum() / max(alpha.sum(), 1e-9)))
        free[place] *= 1 - alpha
    return shares[::-1]


def make(stamps: Path, out: Path, *, images: int, size: int, seed: int) -> None:
    """Writes the data set to `out`.

    Args:
        stamps: the package's folder of stamps.
        out: folder to write to; an earlier data set of this script there is replaced.
        images: number of images.
        size: side of the images in pixels.
        seed: random seed, of the groups as well.

    Raises:
        ValueError: an argument is out of range, stamps are missing, or `out` has other data.
    """
    for name, value, least in (("images", images, FOLDS), ("size", size, 32), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"--{name} is {value}; use {least} or more")
    table, folder = out / "labels.csv", out / "images"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose a folder for --out")
    if table.exists() and table.read_text("utf-8", "replace").split("\n")[0] != ",".join(HEADER):
        raise ValueError(f"{table} isn't from this script; choose another folder for --out")
    scenes = list(plan(find_groups(stamps, seed), images, seed))
    table.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("composed_*.jpg"):
        old.unlink()
    for scene in scenes:
        render(scene, size).save(folder / scene.name, quality=90)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *(scene.row for scene in scenes)])
    partial = out / "labels.csv.partial"
    partial.write_text(text.getvalue(), encoding="utf-8", newline="\n")
    os.replace(partial, table)  # last, so that an interrupted data set has no CSV


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Makes composed images and their labels.")
    parser.add_argument("--stamps", type=Path, required=True, help="the package's folder of stamps")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=int, default=500, help="number of images")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="random seed; it decides the images")
    options = parser.parse_args(arguments)
    try:
        make(**vars(options))
    except (ValueError, OSError) as error:
        print(f"make_composed_data: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.images} images of {len(CLASSES)} classes, {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
