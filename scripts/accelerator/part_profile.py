"""Part 4: where the time of a training step goes: the longest kernels, and shares by layer kind."""

import gzip
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from part_networks import TINY, Work, compile_work
from part_record import Record, options_of

STEPS = 3
LONGEST = 10
# The first pattern that the path of an operation contains names its kind.
KINDS = (
    ("depthwise convolution", r"depthwise/conv"),
    ("normalisation", r"/norm/"),
    ("squeeze-excite", r"/se/"),
    ("other convolution or product", r"/conv/|dot_general|conv_general"),
    ("optimiser", r"optimizer|adam|update"),
)
_NAMED = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*?metadata=\{[^}]*?op_name=\"([^\"]*)\"", re.M)


def paths_of(text: str) -> dict[str, str]:
    """Returns the path in the network of each instruction of a compiled program."""
    return dict(_NAMED.findall(text))


def kind_of(path: str) -> str:
    """Returns the kind of layer that a path belongs to.

    >>> kind_of("jit(step)/transpose/backbone/stage1/block1/depthwise/conv/mul")
    'depthwise convolution'
    """
    return next((kind for kind, pattern in KINDS if re.search(pattern, path)), "other")


def kernel_seconds(folder: Path) -> Iterator[tuple[str, str, float]]:
    """Yields (instruction, kernel, seconds) of each event of a trace that names an instruction."""
    for path in folder.rglob("*.trace.json.gz"):
        for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
            name = event.get("args", {}).get("hlo_op")
            if event.get("ph") == "X" and name:
                yield name, event["name"], event["dur"] / 1e6


def profile(variant: str, size: int, batch: int) -> dict[str, Any]:
    """Traces a few training steps and returns the shares of their time."""
    compiled = compile_work(Work("train", variant, size, batch))
    compiled.run(2)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = compiled.run(STEPS) / STEPS
        events = list(kernel_seconds(Path(folder)))
    if not events:
        raise RuntimeError("the trace names no instruction")
    paths = paths_of(compiled.executable.as_text() or "")
    kinds: dict[str, float] = defaultdict(float)
    kernels: dict[tuple[str, str], float] = defaultdict(float)
    for instruction, kernel, taken in events:
        path = paths.get(instruction, "")
        kinds[kind_of(path)] += taken
        kernels[kernel, path] += taken
    total = sum(kinds.values())
    longest = sorted(kernels.items(), key=lambda item: -item[1])[:LONGEST]
    return {
        "batch": batch,
        "step_ms": 1e3 * seconds,
        "kernels_ms": 1e3 * total / STEPS,
        "shares": {kind: taken / total for kind, taken in sorted(kinds.items())},
        "longest": [
            {"kernel": kernel, "path": path[-120:], "ms": 1e3 * taken / STEPS}
            for (kernel, path), taken in longest
        ],
    }


def main() -> None:
    """Profiles B0 and B5."""
    options = options_of(__doc__)
    record = Record("profile", options)
    settings = [(TINY, 32, 2)] if options.rehearse else [("b0", 224, 256), ("b5", 456, 32)]
    record.plan(variant for variant, _, _ in settings)
    for variant, size, batch in settings:
        record.measure(variant, lambda v=variant, s=size, b=batch: profile(v, s, b), 5)


if __name__ == "__main__":
    main()
