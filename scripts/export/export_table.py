"""Exports runs of several kinds to every format and compares the files with the runs.

    python scripts/export/export_table.py --csv labels.csv --images photos [--variant lite0]

Each run is trained in a temporary folder, or in --folder, which keeps what it has. Each file is
loaded by `load_elsewhere.py`, in a process of its own that finds nothing of the project. Prints
tables in Markdown: differences from the float32 network in JAX on the validation images, sizes,
milliseconds per image, and mAP.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from scipy.special import expit

from mlcls_jax.config import Augment, Config, Data, Group, Model, Phase
from mlcls_jax.data.loaders.loader import eval_batches, local_rows
from mlcls_jax.evaluation.metrics import evaluate_scores
from mlcls_jax.export.__main__ import export_model
from mlcls_jax.export.function_files import run_logits
from mlcls_jax.options.export import FORMATS, INT8, ONNX, TRITON
from mlcls_jax.run.checkpoint_integrity import has_checkpoint
from mlcls_jax.run.trained_model import TrainedModel, load_trained_model
from mlcls_jax.run.workdir import read_splits_of
from mlcls_jax.system import distributed
from mlcls_jax.train import train

WORKER = Path(__file__).with_name("load_elsewhere.py")
LOADED = [form for form in FORMATS if form != TRITON]  # its folder holds the file of onnx


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        finetune: epochs in which everything trains, after those of the head.
        classes: number of columns of the labels; 0 for those of the CSV.
        head: the field model.head.
        dtype: the field model.compute_dtype.
    """

    finetune: float = 0
    classes: int = 0
    head: str = "gap"
    dtype: str = "float32"


KINDS = {
    "frozen": Kind(),
    "fine-tuned": Kind(finetune=1),
    "ML-Decoder": Kind(finetune=0.5, head="mldecoder"),
    "1 class": Kind(classes=1),
    "300 classes": Kind(classes=300),
    "trained in bf16": Kind(finetune=0.5, dtype="bfloat16"),
}


def labels(csv: Path, count: int, folder: Path) -> Path:
    """Returns a CSV with `count` columns of labels; those beyond the CSV's are drawn."""
    table = pd.read_csv(csv)
    if not count:
        return csv
    rng, names = np.random.default_rng(0), table.columns[1:]
    chosen = table[[table.columns[0], *names[:count]]].copy()
    drawn = [rng.permuted(table[names[i % len(names)]]) for i in range(len(names), count)]
    extra = pd.DataFrame(dict(zip((f"drawn {i}" for i in range(len(drawn))), drawn, strict=True)))
    path = folder / f"labels-{count}.csv"
    pd.concat([chosen, extra], axis=1).to_csv(path, index=False)
    return path


def trained(kind: Kind, options: argparse.Namespace, folder: Path, name: str) -> Path:
    """Returns the workdir of a run of a kind, trained unless it is there."""
    workdir = folder / name.replace(" ", "-")
    if has_checkpoint(workdir):
        return workdir
    head = Phase("head", f"{options.head_epochs} epochs", [Group("head/.*", 1e-2)], cached_views=1)
    phases, epochs = [head], kind.finetune * options.finetune_epochs
    if epochs:
        groups = [Group("head/.*", 1e-3), Group("backbone/.*", 1e-3)]
        phases.append(Phase("finetune", f"{epochs:g} epochs", groups, warmup="0.5 epochs"))
    data = Data(
        csv=str(labels(Path(options.csv), kind.classes, folder).resolve()),
        images=str(Path(options.images).resolve()),
        batch_size=32,
    )
    model = Model(
        options.variant,
        head=kind.head,
        image_size=options.size,
        compute_dtype=kind.dtype,
        weights=options.weights,
    )
    augment = Augment(symmetry="h")
    train(Config(recipe="none", data=data, model=model, augment=augment, phases=phases), workdir)
    return workdir


@dataclass(frozen=True)
class Images:
    """The validation images of a run, and what it makes of them in float32."""

    pixels: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    def mean_average_precision(self, probabilities: np.ndarray, classes: tuple[str, ...]) -> float:
        return evaluate_scores(self.labels, probabilities, classes).values["mAP"]


def validation_images(run: TrainedModel, workdir: Path) -> Images:
    table, spec = read_splits_of(workdir, run.config.data)["val"], run.evaluation
    rows = local_rows(spec.batch_size, "data.eval_batch_size")
    batches = [*eval_batches(table.paths, rows=rows, size=spec.image_size, augment=spec.augment)]
    forward = jax.jit(run_logits(run))
    logits = np.concatenate([forward(batch) for batch in batches])[: len(table)]
    return Images(np.concatenate(batches)[: len(table)], table.labels, logits)


def compared(name: str, form: str, run: TrainedModel, workdir: Path, images: Images) -> list[str]:
    """Returns a row: size, differences, milliseconds and mAP; or why the format is refused."""
    plain, quantize = form.removesuffix(f" {INT8}"), INT8 if form.endswith(INT8) else ""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "images.npy", images.pixels)
        try:
            export_model(run, plain, folder / "out", workdir, quantize)
        except ValueError as error:
            return [name, form, f"refused: {error}", "", "", "", "", ""]
        command = [sys.executable, "-I", str(WORKER), plain, "out", "images.npy", "found.npz"]
        subprocess.run(command, cwd=folder, check=True)
        found = np.load(folder / "found.npz")
        config = json.loads((folder / "out/config.json").read_text())["mlcls_jax"]
        file = folder / "out" / config["file"]
        files = [each for each in file.rglob("*") if each.is_file()] if file.is_dir() else [file]
        size = sum(each.stat().st_size for each in files)
    if "logits" in found:
        logits = found["logits"].astype(np.float64)
        probabilities = expit(logits / run.decision_rule.temperatures)
        apart = np.abs(logits - images.logits * run.decision_rule.temperatures).max()
        text = f"{apart:.1e}"
    else:
        probabilities, text = found["probabilities"].astype(np.float64), ""
    difference = np.abs(probabilities - expit(images.logits.astype(np.float64))).max()
    score = images.mean_average_precision(probabilities, run.classes)
    one, many = found["speed"]
    return [
        name,
        form,
        f"{size / 1e6:.1f}",
        f"{difference:.1e}",
        text,
        f"{one:.1f}",
        f"{many:.1f}",
        f"{score:.4f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--csv", required=True, help="labels")
    parser.add_argument("--images", required=True, help="folder of the images")
    parser.add_argument("--folder", help="keeps the runs (default: a temporary folder)")
    parser.add_argument("--variant", default="lite0", help="network (default lite0)")
    parser.add_argument("--weights", default="imagenet", help='its weights; "" for random ones')
    parser.add_argument("--size", type=int, default=224, help="side of the images (default 224)")
    parser.add_argument("--head-epochs", type=float, default=6)
    parser.add_argument("--finetune-epochs", type=float, default=4)
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of runs, by comma")
    parser.add_argument("--formats", default=",".join((*LOADED, f"{ONNX} {INT8}")))
    options = parser.parse_args()
    distributed.start()
    rows = ["| run | format | MB | probabilities | logits | ms, batch 1 | ms, batch 16 | val mAP |"]
    rows.append("|---|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.kinds.split(","):
            workdir = trained(KINDS[name], options, folder, name)
            # The best checkpoint may be of the first phase, in which the backbone is frozen.
            run = load_trained_model(workdir, "latest" if KINDS[name].finetune else "best")
            images = validation_images(run, workdir)
            own = images.mean_average_precision(expit(images.logits), run.classes)
            largest = np.abs(images.logits).max()
            rows.append(f"| {name} | the run itself, logits to {largest:.1f} ||||||| {own:.4f} |")
            for form in options.formats.split(","):
                rows.append(f"| {' | '.join(compared(name, form, run, workdir, images))} |")
                print(rows[-1], flush=True)
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
