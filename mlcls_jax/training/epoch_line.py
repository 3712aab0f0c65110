"""The line that is printed after an evaluation."""

from typing import Any

from mlcls_jax.run.workdir import EMA, RAW


def epoch_line(record: dict[str, Any], epoch: str) -> str:
    """Returns the line that is printed for a record of metrics.jsonl.

    Args:
        record: of an evaluation.
        epoch: see `epoch_text`.
    """
    val, constant = record["val"], record["base_rate"]
    # The training loss is named unless it is BCE: another loss does not compare with that of val.
    plain = record["loss_name"] == "bce"
    train_loss, val_loss = ("loss", "loss") if plain else (record["loss_name"], "bce")
    trained = (
        f"{record['phase']} epoch {epoch}, step {record['step']}: "
        f"train {train_loss} {record['train_loss']:.4f}"
    )
    if not val:
        return f"{trained}, {record['images_per_second']:.1f} images/s"
    return (
        f"{trained}, val {val_loss} {val['loss']:.4f} "
        f"(base rate {constant['loss']:.4f}), mAP {val['mAP']:.4f} "
        f"(base rate {constant['mAP']:.4f}), CF1 {val['CF1']:.4f}, "
        f"{_auroc(record)}{record['images_per_second']:.1f} images/s{_compared(record)}"
    )


def _auroc(record: dict[str, Any]) -> str:
    """Returns the AUROC of a record if it decides the best evaluation."""
    if record["best_by"] != "AUROC":
        return ""
    return f"AUROC {record['val']['AUROC']:.4f} (base rate {record['base_rate']['AUROC']:.4f}), "


def _compared(record: dict[str, Any]) -> str:
    if "weights" not in record:
        return ""
    metric = record["best_by"]
    raw, ema = (record[f"val_{weights}"][metric] for weights in (RAW, EMA))
    better = "EMA" if record["weights"] == EMA else "parameters"
    return (
        f"; scored with the {better}: {metric} {raw:.4f} of the parameters, {ema:.4f} of their EMA"
    )
