"""Times a matrix product on the CPU in float32 and bfloat16, with XLA's flags and with torch.

    python scripts/measure/cpu_products.py
    python scripts/measure/cpu_products.py --size 2048 --flags --xla_cpu_use_xnnpack=true

Each row is a process of its own, because XLA reads its flags once. Figures are the fastest of many
calls, and the library that XLA's program calls, by its text. torch is left out if it is missing.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

DTYPES = ("float32", "bfloat16")
FLAGS = (
    "",
    "--xla_cpu_use_xnnpack=true",
    "--xla_cpu_experimental_onednn_custom_call=true",
    "--xla_cpu_experimental_onednn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
)
CALLS = 25


def rate(product: Callable[[], Any], size: int) -> float:
    """Returns the GFLOP/s of the fastest call."""
    product()
    fastest = float("inf")
    for _ in range(CALLS):
        began = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * size**3 / fastest / 1e9


def jax_row(size: int) -> str:
    """Returns the figures of XLA, and the libraries that its programs name."""
    import jax

    cells, libraries = [], set()
    for dtype in DTYPES:
        matrix = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
        compiled = jax.jit(lambda a: a @ a).lower(matrix).compile()
        libraries |= set(re.findall(r"(ynn|xnn|onednn)_?\w*", compiled.as_text() or ""))
        cells.append(f"{rate(lambda f=compiled, a=matrix: f(a).block_until_ready(), size):.0f}")
    return f"{' | '.join(cells)} | {', '.join(sorted(libraries)) or 'none'}"


def torch_row(size: int) -> str:
    """Returns the figures of torch."""
    import torch  # pyright: ignore[reportMissingImports]

    matrices = [torch.randn(size, size).to(getattr(torch, dtype)) for dtype in DTYPES]
    return " | ".join(f"{rate(lambda a=matrix: a @ a, size):.0f}" for matrix in matrices) + " | –"


def run(what: str, size: int, flags: str) -> str:
    """Returns the row that a process of its own prints, or the end of its error."""
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "--row", what, "--size", f"{size}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else "no output"


def main() -> None:
    """Prints the table, or one row of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, default=1024, help="side of the matrices (default 1024)")
    add("--flags", nargs="*", default=FLAGS, help="flags of XLA, a row each")
    add("--row", choices=("jax", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(jax_row(options.size) if options.row == "jax" else torch_row(options.size))
        return
    print("| | float32, GFLOP/s | bfloat16, GFLOP/s | library |\n|---|---|---|---|", flush=True)
    for flags in options.flags:
        print(f"| XLA {flags} | {run('jax', options.size, flags)} |", flush=True)
    if find_spec("torch"):
        print(f"| torch | {run('torch', options.size, '')} |", flush=True)


if __name__ == "__main__":
    main()
