"""The model card of a pushed model: README.md with metrics, classes, data and how to load it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlcls_jax import __version__
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.card.data_card import DataCard
from mlcls_jax.evaluation.metrics import finite_or_none
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.models.weights.hub import PREFIX
from mlcls_jax.run.best_scores import read_best_evaluation
from mlcls_jax.run.data_card import read_card
from mlcls_jax.run.score_table import FURTHER, MAIN, score_table
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.run.workdir import read_splits_of

CARD = "README.md"
_SHOWN = ("mAP", "AUROC", "CF1", "OF1", "loss")
_RESAMPLES, _AT_RECALL = 1000, 0.9  # as in evaluate
_MOST_CLASSES = 1000  # rows of the table
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")


def model_card(run: TrainedModel, workdir: Path, repo: str) -> str:
    """Returns the card as Markdown with the front matter of the Hub.

    Args:
        run: the trained run.
        workdir: of the run: its scores, of the same checkpoint only, and its data card.
        repo: such as "me/birds".
    """
    scored = _evaluations(run, workdir)
    parts = [
        _front_matter(scored, repo),
        f"# {repo.partition('/')[2]}",
        f"An EfficientNet ({run.config.model.variant}) for multi-label classification of images "
        f"into {len(run.classes)} classes, at {image_size(run.config.model)} px. Its output is a "
        "logit for each class; a class is present from its threshold on.",
        _metrics(scored),
        _classes(run, scored),
        _data(read_card(workdir)),
        _usage(run, repo),
        _training(run),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def hub_usage(name: str) -> str:
    """Returns example code that loads a pushed model; name: hf-hub:<repo>@<commit>."""
    return (
        f'model = mlcls_jax.load("{name}")\n'
        f'or: model = timm.create_model("{name}", pretrained=True)'
    )


def _evaluations(run: TrainedModel, workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns what eval_<split>.json has of this checkpoint, or has for val if it is computed."""
    found = {}
    for split in ("test", "val"):
        try:
            values = json.loads((workdir / f"eval_{split}.json").read_text(encoding="utf-8"))
            if values["step"] == run.metadata["step"]:
                found[split] = values
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if "val" not in found and (values := _computed(run, workdir)):
        found["val"] = values
    return found


def _computed(run: TrainedModel, workdir: Path) -> dict[str, Any] | None:
    """Returns the scores of val from scores.npz, if these are of this checkpoint."""
    try:
        best = read_best_evaluation(workdir)
        if best is None or best.step != run.metadata["step"]:
            return None
        val = read_splits_of(workdir, run.config.data)["val"]
        rows = {name: row for row, name in enumerate(val.filenames)}
        table = val.take([rows[name] for name in best.filenames])
    except (ValueError, KeyError):  # the data are gone
        return None
    values, _, _ = score_table(
        run.metadata,
        table,
        best.logits,
        run.decision_rule,
        tuned_here=True,
        seed=run.config.seed,
        resamples=_RESAMPLES,
        at_recall=_AT_RECALL,
    )
    return values | {"num_images": len(table)}


def _front_matter(scored: dict[str, dict[str, Any]], repo: str) -> str:
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("image-classification", "multi-label", "timm", "jax")),
        "- mlcls_jax",
    ]
    if scored:
        split, values = next(iter(scored.items()))
        lines += [
            "model-index:",
            f"- name: {json.dumps(repo.partition('/')[2])}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {json.dumps(f'own data, {split}')}",
            "      type: own",
            "    metrics:",
        ]
        for name in ("mAP", "CF1"):
            if (value := values["values"].get(name)) is not None:
                lines += [f"    - type: {name}", f"      value: {value:.4f}"]
    return "\n".join([*lines, "---"])


def _metrics(scored: dict[str, dict[str, Any]]) -> str:
    if not scored:
        return ""
    parts = ["## Metrics"]
    for split, values in scored.items():
        rows = []
        for name in _SHOWN:
            meaning = (MAIN | FURTHER)[name]
            interval = values.get(f"{name}_interval")
            limits = f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else ""
            cells = (values["values"].get(name), values["base_rate"].get(name))
            rows.append([f"{name} ({meaning})", *map(_figure, cells), limits])
        parts.append(
            f"{values['num_images']} images of {split}. The base rate is what predicting the class "
            "frequencies scores; the interval is one of 95 %, by bootstrap of the images."
            + (" Thresholds were tuned on these images." if split == "val" else "")
        )
        parts.append(_table([f"metric ({split})", "model", "base rate", "interval"], rows))
    return "\n\n".join(parts)


def _classes(run: TrainedModel, scored: dict[str, dict[str, Any]]) -> str:
    values = next(iter(scored.values()), {})
    rule, shares = run.decision_rule, run.metadata["base_rate"]["frequencies"]
    precision = values.get("class_ap", {})
    rows = [
        [_escaped(name), f"{threshold:.3f}", _figure(precision.get(name)), f"{share:.4f}"]
        for name, threshold, share in list(zip(run.classes, rule.thresholds, shares, strict=True))[
            :_MOST_CLASSES
        ]
    ]
    more = len(run.classes) - len(rows)
    heading = "## Classes and thresholds\n\n"
    heads = ["class", "threshold", "average precision", "share in train"]
    return heading + _table(heads, rows) + (f"\n\nand {more} more" if more else "")


def _data(card: DataCard | None) -> str:
    """Returns counts only: a card may be public, and the names of files need not be."""
    if card is None:
        return ""
    rows = [
        [_escaped(split), *(f"{counts.get(name, 0):,}" for name in ("images", "positive"))]
        for split, counts in card.labels.splits.items()
    ]
    facts = {
        "images with the same bytes in two splits": len(card.files.leaks),
        "groups of equal files": len(card.files.duplicates),
        "unreadable images": len(card.files.unreadable),
    }
    found = "\n".join(f"- {text}: {count}" for text, count in facts.items())
    return "## Data\n\n" + _table(["split", "images", "positive labels"], rows) + f"\n\n{found}"


def _usage(run: TrainedModel, repo: str) -> str:
    name, size = f"{PREFIX}{repo}", image_size(run.config.model)
    temperatures = list(run.decision_rule.temperatures)
    divided = (
        "" if set(temperatures) == {1.0} else " / torch.tensor(list(own['temperatures'].values()))"
    )
    sections = {
        "timm": f'''import json, timm, torch
from huggingface_hub import hf_hub_download

model = timm.create_model("{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
own = json.load(open(hf_hub_download("{repo}", "config.json")))["mlcls_jax"]
with torch.inference_mode():
    probabilities = (model(transform(image)[None]){divided}).sigmoid()
present = probabilities >= torch.tensor(list(own["thresholds"].values()))''',
        "JAX": f'''import mlcls_jax as ml

model = ml.load("{name}")
predictions = model.predict(["photo.jpg"])
predictions.present''',
        "ONNX": f'''import mlcls_jax as ml, onnxruntime

ml.load("{name}").export("onnx", "exported")
session = onnxruntime.InferenceSession("exported/model.onnx")
(probabilities,) = session.run(None, {{"images": images}})  # uint8 [image, {size}, {size}, 3]''',
    }
    if not VARIANTS[run.config.model.variant].lite:  # keras.applications has none of these
        sections["Keras"] = f'''import json, keras, mlcls_jax as ml

file = ml.load("{name}").export("keras", "exported")
about = json.load(open("exported/config.json"))
model = getattr(keras.applications, about["application"])(**about["arguments"])
model.load_weights(file)
logits = model(images)  # about["input"] says of what range'''
    parts = [f"### {title}\n\n```python\n{code}\n```" for title, code in sections.items()]
    return "\n\n".join(["## How to load it", *parts])


def _training(run: TrainedModel) -> str:
    config = run.config
    weights = config.model.weights if is_name(config.model.weights) else "own weights"
    phases = ", ".join(f"{phase.name} ({phase.duration})" for phase in config.phases)
    return (
        f"## Training\n\nWith mlcls_jax {__version__}, from the weights "
        f"`{weights}`, in phases {phases}; seed {config.seed}, loss "
        f"{config.loss.name}. This is the checkpoint of step {run.metadata['step']}. "
        "`mlcls_jax.json` has every field of the config."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(value: float | None) -> str:
    return "" if value is None or finite_or_none({"": value})[""] is None else f"{value:.4f}"


def _escaped(text: str) -> str:
    """Returns a name as Markdown shows it, whatever it contains.

    >>> _escaped("<b> | cat_a")
    '\\\\<b\\\\> \\\\| cat\\\\_a'
    """
    return _MARKS.sub(r"\\\1", " ".join(text.split()))
