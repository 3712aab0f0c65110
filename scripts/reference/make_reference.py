"""Writes the values of other implementations to tests/reference, which the tests compare with.

    python scripts/reference/make_reference.py
    python scripts/reference/make_reference.py --only losses optimizers

Needs the extra `reference`. Run it when a case is added; a new version of an implementation that
computes something else shows in `make test-reference` first.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import live_decoder
import live_losses
import live_networks
import live_optimizers
import numpy as np

FOLDER = Path(__file__).parents[2] / "tests/reference"
LIVE: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "losses": live_losses.values,
    "optimizers": live_optimizers.values,
    "decoder": live_decoder.values,
    "networks": live_networks.values,
}


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> None:
    """Computes the chosen values and writes a file for each.

    Args:
        arguments: the command line, by default that of the process.
        folder: where to write.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=LIVE, default=list(LIVE), help="files to write (default: all)"
    )
    for name in parser.parse_args(arguments).only:
        values = LIVE[name]()
        path = folder / f"{name}.npz"
        np.savez_compressed(path, **values)  # pyright: ignore[reportArgumentType]
        print(f"wrote {path.name}: {len(values)} arrays, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
