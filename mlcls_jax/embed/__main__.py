"""Writes the features of images: what the backbone of a trained run computes and its head takes.

mlcls-jax embed --workdir runs/b5 photos/ --out features.npz
mlcls-jax embed --workdir runs/b5 names.csv --images photos/ --out features.parquet
"""

import dataclasses
import io
import sys
from pathlib import Path

from mlcls_jax.options.embed import PARQUET, check, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import numpy as np

from mlcls_jax import cli
from mlcls_jax.data.loaders.loader import make_reader
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.embedding import embed_dataset
from mlcls_jax.run.given_images import named_images
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console, escaped
from mlcls_jax.system.files import write_bytes


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    distributed.start()
    names, paths = named_images(options.inputs, options.images, options.workdir)
    run = load_trained_model(open_workdir(options.workdir), options.checkpoint)
    # No limit on the share of bad images: the user chose the images, and may have chosen few.
    data = dataclasses.replace(run.config.data, max_bad_fraction=1.0)
    data = cli.with_on_bad_image(data, options.on_bad_image)
    reader = make_reader(data, run.network.in_channels, len(paths))
    features, readable = embed_dataset(run, paths, reader, "embed")
    for path, reason in reader.bad.reasons.items():
        print(escaped(f"{path} is skipped: {reason}"), file=sys.stderr)
    if not readable.any():
        raise ValueError("none of the images can be read")
    kept = [name for name, good in zip(names, readable, strict=True) if good]
    write_features(Path(options.out), kept, features[readable])
    images, channels = len(kept), features.shape[1]
    console.print(escaped(f"Wrote {options.out} ({images} images, {channels} features each)"))
    return 0


def write_features(file: Path, names: list[str], features: np.ndarray) -> None:
    """Writes features with the names of their images.

    Args:
        file: an .npz with the arrays filenames and features, which NumPy loads without pickle; or
            a .parquet with columns of these names, the features as one list for each image.
        names: file names of the images.
        features: float32 [image, channel].

    Raises:
        ValueError: the file cannot be written, or a .parquet cannot hold a name.
    """
    buffer = io.BytesIO()
    if file.suffix == PARQUET:
        _write_parquet(buffer, names, features)
    else:
        np.savez(buffer, filenames=np.array(names), features=features)
    write_bytes(file, buffer.getvalue())


def _write_parquet(buffer: io.BytesIO, names: list[str], features: np.ndarray) -> None:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    for name in names:
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"--out: the name {name!r} is not valid UTF-8; rename the image")
    values = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    table = pa.table({"filenames": pa.array(names, pa.string()), "features": values})
    pq.write_table(table, buffer)


if __name__ == "__main__":
    cli.run(main)
