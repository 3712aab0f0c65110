"""The tables of docs/accelerators.md, one function per part of check.sh."""

from collections.abc import Callable, Iterable
from typing import Any

from kernel_settings import PER_LAYER, Setting

NETWORKS = (("b0", 224, 256), ("b4", 380, 64), ("b5", 456, 32), ("v2s", 384, 64))
SIDES = ("ours", "timm", "timm_compiled", "keras")
ABSENT = "not measured"
# Images/s in mixed precision: NVIDIA's DeepLearningExamples (TensorFlow 2 with XLA; see
# docs/scaling.md) and the folder results of timm's repository, whose inference on the RTX 5090 is
# benchmark-infer-amp-nchw-pt291-cu130-5090.csv.
PUBLISHED = {
    ("b0", "train"): "A100, TensorFlow with XLA: 3,454",
    ("b4", "train"): "A100, TensorFlow with XLA: 470",
    ("b5", "train"): "RTX 3090, timm: 113.6",
    ("b0", "forward"): "RTX 5090, timm: 11,319",
    ("b4", "forward"): "RTX 5090, timm: 1,657",
    ("b5", "forward"): "RTX 5090, timm: 836",
    ("v2s", "forward"): "RTX 5090, timm: 2,041",
}

Values = dict[str, Any]
Reasons = dict[str, str]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table in Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def absent(name: str, reasons: Reasons) -> str:
    """Returns "not measured", with the reason if there is one."""
    reason = reasons.get(name, "").replace("|", "/")
    return f"{ABSENT}: {reason}" if reason else ABSENT


def hardware(values: Values, reasons: Reasons) -> str:
    """Returns the table of the machine."""
    machine = values.get("machine", {})
    rows = [
        ["devices", ", ".join(machine.get("devices", [])) or absent("machine", reasons)],
        ["driver", machine.get("driver") or ABSENT],
        ["host", f"{machine['cores']} cores" if machine else ABSENT],
    ]
    versions = {name: v for name, v in machine.get("versions", {}).items() if v}
    rows.append(["versions", ", ".join(f"{k} {v}" for k, v in versions.items()) or ABSENT])
    for name in ("bfloat16", "float32", "tf32"):
        key = f"matmul {name}"
        rate = f"{values[key]['flops'] / 1e12:.1f} TFLOP/s" if key in values else None
        rows.append([f"matmul peak, {name}", rate or absent(key, reasons)])
    band = values.get("bandwidth")
    rate = f"{band['bytes_per_second'] / 1e9:.0f} GB/s" if band else absent("bandwidth", reasons)
    rows.append(["memory bandwidth", rate])
    decoded = values.get("decode")
    rate = f"{decoded['images_per_second']:.0f} images/s" if decoded else absent("decode", reasons)
    rows.append(["JPEGs of 640 x 480 to 224 px, all cores", rate])
    return table(["", "measured"], rows)


def correctness(values: Values, reasons: Reasons) -> str:
    """Returns the table of the comparisons with the CPU."""
    names = [f"logits {name}" for name in ("lite0", "b0", "b5", "v2s")]
    names += [name for name in values if name.startswith("logits ") and name not in names]
    rows = []
    for name in (*names, "step", "ten steps", "run"):
        result = values.get(name)
        if not result:
            rows.append([name, absent(name, reasons), ""])
            continue
        details = result.get("errors") or result.get("mAP") or {}
        text = ", ".join(f"{key}: {value:.2g}" for key, value in details.items())
        passed = "yes" if result["passed"] else "**no**"
        rows.append([name, text or f"loss {result.get('loss', float('nan')):.3f}", passed])
    return table(["comparison", "largest difference, or mAP", "within limits"], rows)


def speed(values: Values, reasons: Reasons) -> str:
    """Returns the tables of images/s: of all sides at one batch, and of other batches."""
    rows = []
    for variant, size, batch in NETWORKS:
        for what in ("train", "frozen", "forward"):
            setting = f"{variant}@{size} {what}"
            cells = []
            for side in SIDES:
                result = values.get(f"{setting} {side} {batch}")
                key = f"{setting} {side} {batch}"
                rate = f"{result['images_per_second']:,.0f}" if result else absent(key, reasons)
                cells.append(rate)
            published = PUBLISHED.get((variant, what), "")
            used = shares_of_peaks(values, f"{setting} ours {batch}")
            rows.append([f"{variant}, {size} px, {what}", f"{batch}", *cells, used, published])
    header = ["step", "batch", "ours", "timm", "timm, torch.compile", "Keras on JAX"]
    parts = [table([*header, "ours: MFU, share of bandwidth, peak memory", "published"], rows)]
    if sweep := sweep_rows(values):
        parts.append(table(["other batches", "images/s", "peak GB"], sweep))
    return "\n\n".join(parts)


def shares_of_peaks(values: Values, name: str) -> str:
    """Returns our shares of the measured matmul peak and bandwidth, and the peak memory."""
    result, peaks = values.get(name), values.get("peaks", {})
    if not result:
        return ABSENT
    rate = result["images_per_second"] / result["batch"]
    cells = [
        f"{result[count] * rate / peaks[peak]:.0%}" if peaks.get(peak) else ABSENT
        for count, peak in (("flops", "flops"), ("traffic", "bytes_per_second"))
    ]
    memory = (result.get("peak_memory") or result["planned_memory"]) / 1e9
    return f"{', '.join(cells)}, {memory:.1f} GB"


def sweep_rows(values: Values) -> list[list[str]]:
    """Returns a row per result at another batch than the first."""
    first = {(f"{variant}@{size}", f"{batch}") for variant, size, batch in NETWORKS}
    rows = []
    for name, result in values.items():
        words = name.split()
        if len(words) == 4 and (words[0], words[3]) not in first:
            peak = result.get("peak_memory")
            memory = f"{peak / 1e9:.1f}" if peak else ABSENT
            rows.append([name, f"{result['images_per_second']:,.0f}", memory])
    return rows


def profile(values: Values, reasons: Reasons) -> str:
    """Returns the shares of a step by layer kind, and its longest kernels."""
    names = [name for name in values if name not in ("b0", "b5")]
    parts = []
    for name in ("b0", "b5", *names):
        result = values.get(name)
        if not result:
            parts.append(f"{name}: {absent(name, reasons)}.")
            continue
        shares = [[kind, f"{share:.0%}"] for kind, share in result["shares"].items()]
        longest = [
            [f"`{x['kernel']}`", f"`{x['path']}`", f"{x['ms']:.3f}"] for x in result["longest"]
        ]
        parts.append(f"{name}, batch {result['batch']}, {result['step_ms']:.2f} ms a step:")
        parts.append(table(["part of the time of all kernels", "share"], shares))
        parts.append(table(["kernel", "layer", "ms a step"], longest))
    return "\n\n".join(parts)


def kernels(values: Values, reasons: Reasons) -> str:
    """Returns the times of layers by implementation, of whole steps, and of flags."""
    rows = []
    for name, operations in values.items():
        if name.startswith("layer "):
            for operation, times in operations.items():
                cells = [f"{k}: {v:.0f}" for k, v in times.items() if isinstance(v, (int, float))]
                cells += [f"{k}: failed" for k, v in times.items() if isinstance(v, str)]
                rows.append([name.removeprefix("layer "), operation, ", ".join(cells)])
    for name, times in values.items():
        if name.startswith("moments "):
            cells = ", ".join(f"{k}: {v}" for k, v in times.items())
            rows.append([name.removeprefix("moments "), "batch statistics", cells])
    layers = table(["layer", "operation", "µs"], rows) if rows else f"Layers: {ABSENT}."
    planned = Setting()
    known = [f"step, {name}" for name in (*planned.tables, PER_LAYER)]
    known += [f"evaluation, {name}" for name in (*planned.evaluations, PER_LAYER)]
    names = [name for name in (*known, *values, *reasons) if name.startswith(("step, ", "eval"))]
    names = sorted(dict.fromkeys(names), key=lambda name: (" flag " in name, name[0] != "s"))
    steps: dict[str, list[str]] = {}
    for name in names:
        kind, table_or_flag = name.split(", ", 1)
        start, dashes, flag = table_or_flag.partition("--")
        row = steps.setdefault(f"{start}`--{flag}`" if dashes else start, ["", ""])
        result = values.get(name)
        rate = f"{result['images_per_second']:,.0f}" if result else absent(name, reasons)
        row[kind == "evaluation"] = rate
    header = ["table of kernels, or flag", "images/s of a training step", "of an evaluation"]
    return f"{layers}\n\n{table(header, ([name, *row] for name, row in steps.items()))}"


def end_to_end(values: Values, reasons: Reasons) -> str:
    """Returns the benchmark's figures for each loader."""
    rows = []
    for loader in ("threads", "tf_data", "grain"):
        result = values.get(loader)
        if not result:
            rows.append([loader, absent(loader, reasons), "", ""])
            continue
        for program in result["programs"]:
            bound = (program["bottleneck"] or {}).get("bound", "")
            cells = [_median_rate(result["input"]), _median_rate(program["train"]), bound]
            rows.append([f"{loader}, {program['name']}", *cells])
    header = ["loader, phase", "input alone, images/s", "end to end, images/s", "bound by"]
    return table(header, rows)


def _median_rate(timing: Values | None) -> str:
    return f"{timing['images_per_second']['median']:,.0f}" if timing else "–"


# Title, text and function of each part.
SECTIONS: dict[str, tuple[str, str, Callable[[Values, Reasons], str]]] = {
    "hardware": ("The machine", "", hardware),
    "correctness": (
        "The same results as the CPU",
        "Differences are shares of the largest value. Limits: 1e-4 for float32 logits with the "
        "highest precision of products, 0.005 between the mAP of one run in bfloat16, in float32 "
        "and on the CPU.",
        correctness,
    ),
    "speed": (
        "Speed",
        "Images/s in bfloat16, sides in turns, one batch in the GPU's memory.",
        speed,
    ),
    "profile": ("Where the time goes", "A training step under JAX's profiler.", profile),
    "kernels": (
        "Alternatives",
        "Each distinct depthwise layer alone in bfloat16 (on a CPU in float32), then whole steps "
        "of B0 with a table of kernels, and training steps with one flag of XLA each. "
        "`normalized_depthwise` includes the normalisation and the activation.",
        kernels,
    ),
    "input": ("End to end", "`mlcls-jax benchmark` of B0, images of 640 x 480.", end_to_end),
}
