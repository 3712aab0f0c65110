"""Compares our networks with the reference implementations, and measures loading of weights.

    python scripts/weights/check_weights.py                     # all: 35 minutes on 2 cores, 6 GB
    python scripts/weights/check_weights.py --variants b0,lite0 --code-bases "keras,timm tf"
    python scripts/weights/check_weights.py --loading           # 2 minutes

Each variant of each code base gets random weights and saves them in every layout that it has. We
read the files and compare logits on images of even and odd sizes, square and not, and running
statistics after one forward pass in training mode. Then the time and memory of loading are measured
in new processes. --variants and --code-bases compare only a part, without loading; --loading
measures loading only. The exit code is 1 if a value exceeds its limit.

Prints the tables of docs/weights.md. Needs the extra `reference`.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from reference_models import CODE_BASES, VARIANTS
from reference_weights import NUM_CLASSES, Reference, random_images

from mlcls_jax.models.weights.load import Pretrained, load_pretrained

TOLERANCE = 1e-4
# Height and width. Paddings differ only where a stride meets an even size. Through all strides, 64
# stays even, and 65 and 97 stay odd.
SIZES = ((64, 64), (65, 65), (64, 97))
TRAIN_SIZE = (65, 97)
BATCH = 2

LOADED = {  # each file format, written by a code base that uses it
    "keras": (".h5 with top", ".weights.h5 with top"),
    "timm tf": ("named .safetensors",),
    "lukemelas": (".pth zip", ".pth stream"),
}
MAX_SECONDS = {"b5": 3.0}
MAX_MEMORY = 2.5  # times the file size, without the memory of the imports


@dataclass(frozen=True)
class Difference:
    """Differences between ours and a reference, relative to the reference's largest value.

    Attributes:
        logits: largest over all sizes and layouts; files without a head compare pooled features.
        statistics: largest over the tensors of batch_stats, after one pass in training mode.
    """

    logits: float
    statistics: float

    @property
    def is_small(self) -> bool:
        return self.logits <= TOLERANCE and self.statistics <= TOLERANCE  # False for NaN


def compare(
    code_base: str, variant: str, sizes: tuple[tuple[int, int], ...] = SIZES, seed: int = 0
) -> Difference:
    """Builds a reference and compares ours with it, before and after a pass in training mode.

    Args:
        code_base: a key of CODE_BASES.
        variant: a variant of the code base.
        sizes: heights and widths of the images.
        seed: random seed of weights and images.
    """
    rng = np.random.default_rng(seed)
    reference = CODE_BASES[code_base].build(variant, rng)
    with TemporaryDirectory() as folder:
        paths = reference.save(Path(folder) / "before")
        files = {
            layout: _load(path, variant, 0 if layout.endswith("no top") else NUM_CLASSES)
            for layout, path in paths.items()
        }
        batches = [random_images(rng, (BATCH, *size, 3)) for size in sizes]
        logits = list(_logits(reference, files, batches))
        first = next(iter(files.values()))
        images = random_images(rng, (BATCH, *TRAIN_SIZE, 3))
        reference.train_forward(images)
        path = next(iter(reference.save(Path(folder) / "after").values()))
        expected = _load(path, variant, NUM_CLASSES).variables["batch_stats"]
        differences = jax.tree.map(relative, updated_statistics(first, images), expected)
    statistics = jax.tree.leaves(differences)
    return Difference(float(np.max(logits)), float(np.max(statistics)))  # NaN if there is one


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference in units of the largest expected value."""
    if actual.shape != expected.shape:
        raise ValueError(f"ours has the shape {actual.shape}, the reference has {expected.shape}")
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def outputs(pretrained: Pretrained, images: np.ndarray) -> np.ndarray:
    """Returns our logits, or pooled features if there is no head."""
    return np.asarray(_apply(pretrained.model, pretrained.variables, _inputs(pretrained, images)))


def updated_statistics(pretrained: Pretrained, images: np.ndarray) -> dict[str, Any]:
    """Returns our batch_stats after one pass in training mode, without any dropout."""
    norms = flatten_dict(pretrained.variables["batch_stats"])
    active = frozenset("/".join(path[:-1]) for path in norms)
    model = pretrained.model.clone(dropout=0.0, active=active)
    updated = _train(model, pretrained.variables, _inputs(pretrained, images))
    return jax.tree.map(np.asarray, updated["batch_stats"])


def _load(path: Path, variant: str, num_classes: int) -> Pretrained:
    pretrained = load_pretrained(path)
    found = pretrained.variant, pretrained.num_classes
    if found != (variant, num_classes):
        raise ValueError(f"{path.name} is {variant} of {num_classes} classes, but read as {found}")
    return pretrained


def _logits(
    reference: Reference, files: dict[str, Pretrained], batches: list[np.ndarray]
) -> Iterator[float]:
    whole = [pretrained for pretrained in files.values() if pretrained.num_classes]
    headless = [pretrained for pretrained in files.values() if not pretrained.num_classes]
    for images in batches:
        expected = reference.logits(images)
        yield from (relative(outputs(pretrained, images), expected) for pretrained in whole)
    if headless:  # one size is enough, because the rest of the network has been compared
        expected = reference.features(batches[-1])
        yield from (relative(outputs(pretrained, batches[-1]), expected) for pretrained in headless)


def _inputs(pretrained: Pretrained, images: np.ndarray) -> np.ndarray:
    mean = np.array(pretrained.normalization.mean, np.float32)
    std = np.array(pretrained.normalization.std, np.float32)
    return (images.astype(np.float32) - mean) / std


@partial(jax.jit, static_argnums=0)
def _apply(model, variables, x):
    return model.apply(variables, x)


@partial(jax.jit, static_argnums=0)
def _train(model, variables, x):
    return model.apply(variables, x, True, mutable=["batch_stats"])[1]


def check_matrix(variants: list[str], code_bases: list[str]) -> dict[tuple[str, str], Any]:
    """Compares each variant of each code base, and prints a line for each.

    Returns:
        {(variant, code base): Difference, or the exception that was raised}.
    """
    cells = [(v, c) for v in variants for c in code_bases if v in CODE_BASES[c].variants]
    results: dict[tuple[str, str], Any] = {}
    for count, (variant, code_base) in enumerate(cells, start=1):
        start = time.perf_counter()
        try:
            result: Any = compare(code_base, variant)
            text = f"logits {result.logits:.1e}, statistics {result.statistics:.1e}"
        except Exception as error:  # keep the other cells, which take half an hour
            result, text = error, f"{type(error).__name__}: {error}"
        results[variant, code_base] = result
        seconds = time.perf_counter() - start
        print(f"[{count}/{len(cells)}] {variant} {code_base}: {text} ({seconds:.0f} s)", flush=True)
        is_last_of_variant = count == len(cells) or cells[count][0] != variant
        free_memory(programs=is_last_of_variant)  # the code bases of a variant share programs
    return results


def free_memory(programs: bool) -> None:
    """Frees Keras's graphs and, if `programs`, compiled programs, which outlive their models."""
    if programs:
        jax.clear_caches()
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
    gc.collect()


def matrix_table(
    results: dict[tuple[str, str], Any], variants: list[str], code_bases: list[str]
) -> str:
    """Returns the table in Markdown, with a legend."""
    header = ["", *code_bases]
    rows = [header, ["---"] * len(header)]
    for variant in variants:
        rows.append([variant, *(_cell(results, variant, code_base) for code_base in code_bases)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{table}\n\nLogits · running statistics after one step: the largest difference relative "
        f"to the largest value, at most {_short(TOLERANCE)}. –: the code base has no such variant."
    )


def _cell(results: dict[tuple[str, str], Any], variant: str, code_base: str) -> str:
    if variant not in CODE_BASES[code_base].variants:
        return "–"
    result = results[variant, code_base]
    if not isinstance(result, Difference):
        return "**error**"
    text = f"{_short(result.logits)} · {_short(result.statistics)}"
    return text if result.is_small else f"**{text}**"


def _short(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


def check_loading() -> tuple[str, bool]:
    """Measures how a B5 and a B7 load from each file format.

    Returns:
        The table in Markdown, and whether all rows are within the limits.
    """
    rows = []
    for variant in ("b5", "b7"):
        for code_base, layouts in LOADED.items():
            with TemporaryDirectory() as folder:
                rng = np.random.default_rng(0)
                paths = CODE_BASES[code_base].build(variant, rng).save(Path(folder) / "files")
                for layout in layouts:
                    runs = [measure_loading(paths[layout]) for _ in range(3)]
                    median = sorted(runs, key=lambda run: run["seconds"])[1]
                    rows.append(loading_row(f"{variant} {layout}", median))
    header = "| | file | median time | peak | imports | rest / file |\n" + "|---" * 6 + "|"
    table = "\n".join([header, *(row for row, _ in rows)])
    return table, all(is_within for _, is_within in rows)


def measure_loading(path: Path) -> dict[str, Any]:
    """Runs measure_loading.py in a new process and returns its figures."""
    command = [sys.executable, str(Path(__file__).with_name("measure_loading.py")), str(path)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def loading_row(name: str, found: dict[str, Any]) -> tuple[str, bool]:
    """Returns a Markdown row of the figures, and whether they are within the limits."""
    file, peak, imports = (found[key] / 1e6 for key in ("file", "peak", "imports"))
    factor = (peak - imports) / file
    is_slow = found["seconds"] > MAX_SECONDS.get(found["variant"], np.inf)
    is_within = factor <= MAX_MEMORY and not is_slow and not found["imported"]
    cells = (f"{file:.0f} MB", f"{found['seconds']:.1f} s", f"{peak:.0f} MB", f"{imports:.0f} MB")
    row = f"| {name} | {' | '.join(cells)} | {factor:.2f} |"
    if found["imported"]:
        row += f" **imports {', '.join(found['imported'])}**"
    return (row if is_within else f"{row} **too much**"), is_within


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    is_whole = (args.variants, args.code_bases) == (list(VARIANTS), list(CODE_BASES))
    is_good = True
    if not args.loading:
        results = check_matrix(args.variants, args.code_bases)
        print(matrix_table(results, args.variants, args.code_bases))
        bad = [r for r in results.values() if not (isinstance(r, Difference) and r.is_small)]
        is_good = bool(results) and not bad
    if args.loading or is_whole:
        table, is_within = check_loading()
        print(table)
        is_good &= is_within
    return 0 if is_good else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    def some_of(known: list[str], text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return chosen

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for option, known in (("--variants", list(VARIANTS)), ("--code-bases", list(CODE_BASES))):
        choose = partial(some_of, known)
        text = f"comma-separated (default: {','.join(known)})"
        parser.add_argument(option, type=choose, default=known, help=text)
    parser.add_argument("--loading", action="store_true", help="measure loading only")
    return parser.parse_args(arguments)


def configure_jax(cache: str) -> None:
    """Sets float32 on the CPU, and fast compilation, which takes most of the time here."""
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)  # code bases share programs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


if __name__ == "__main__":
    with TemporaryDirectory() as cache:
        configure_jax(cache)
        status = main()
    sys.exit(status)
