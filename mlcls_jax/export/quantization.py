"""Static quantisation of an ONNX file to 8-bit integers, and what it costs on validation images."""

import tempfile
from collections.abc import Iterator, Sequence
from logging import root
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, eval_batches, local_rows, make_reader
from mlcls_jax.evaluation.base_rate import BaseRate
from mlcls_jax.evaluation.inference import predict_dataset
from mlcls_jax.evaluation.metrics import evaluate_scores
from mlcls_jax.export.portable import INPUT
from mlcls_jax.run.trained_model import TrainedModel, with_fitting_batch
from mlcls_jax.run.workdir import read_splits_of

INT8_FILE = "model.int8.onnx"
CALIBRATION = 256  # most images whose activations give the ranges of the integers


def quantize_onnx(run: TrainedModel, workdir: Path, path: Path) -> tuple[Path, dict[str, Any]]:
    """Replaces model.onnx by model.int8.onnx, and returns its path and its scores for config.json.

    Weights have a scale per channel, activations one per tensor, from up to 256 validation images.
    Both files are then scored on all of them with onnxruntime.

    Args:
        run: the trained run.
        workdir: of the run.
        path: model.onnx, which is removed.

    Raises:
        ValueError: the run has no validation images, or one cannot be read.
    """
    table = read_splits_of(workdir, run.config.data).get("val")
    if table is None or not len(table):
        raise ValueError("int8 needs validation images, and the run has none; export float32")
    run = with_fitting_batch(run, len(table))
    reader = make_reader(run.config.data, run.network.in_channels, len(table))
    rows = np.unique(np.linspace(0, len(table) - 1, CALIBRATION).round().astype(int))
    quantized = path.with_name(INT8_FILE)
    _quantize(path, quantized, _images(run, table.take(rows), reader))
    before, after = _mean_average_precisions(run, table, reader, (path, quantized))
    path.unlink()
    return quantized, {
        "type": "int8",
        "calibration_images": len(rows),
        "val_images": len(table),
        "val_mAP_float32": before,
        "val_mAP": after,
    }


def describe(quantization: dict[str, Any]) -> str:
    """Returns one line with the validation mAP before and after.

    >>> describe({"val_images": 93, "val_mAP_float32": 0.78, "val_mAP": 0.7612})
    'int8: mAP of 93 validation images 0.7612, in float32 0.7800'
    """
    return (
        f"int8: mAP of {quantization['val_images']} validation images "
        f"{quantization['val_mAP']:.4f}, in float32 {quantization['val_mAP_float32']:.4f}"
    )


def _quantize(path: Path, quantized: Path, images: Iterator[np.ndarray]) -> None:
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class _Images(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore
            batch = next(images, None)
            return None if batch is None else {INPUT: batch}

    level = root.level
    root.setLevel("ERROR")  # it advises what is done here
    try:
        with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                quantized,
                _Images(),
                per_channel=True,
                # 7 bits, because processors without VNNI add pairs of products in 16 bits.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        root.setLevel(level)


def _images(run: TrainedModel, table: LabelTable, reader: Reader) -> Iterator[np.ndarray]:
    """Yields the calibration images in batches, uint8 [image, side, side, channel]."""
    spec = run.evaluation
    rows = local_rows(spec.batch_size, "data.eval_batch_size")
    left = len(table)
    for batch in eval_batches(
        table.paths, rows=rows, size=spec.image_size, augment=spec.augment, reader=reader
    ):
        yield np.asarray(batch[:left])
        left -= len(batch)


def _mean_average_precisions(
    run: TrainedModel, table: LabelTable, reader: Reader, files: Sequence[Path]
) -> list[float]:
    """Returns the mAP of each ONNX file, from one pass over the images."""
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    sessions = [onnxruntime.InferenceSession(file, providers=providers) for file in files]

    def predict(_: dict, images: jax.Array) -> Any:
        batch = np.asarray(images)
        outputs: list[Any] = [session.run(None, {INPUT: batch})[0] for session in sessions]
        return np.stack(outputs, axis=1)

    scores, readable = predict_dataset(
        predict, {}, table.paths, run.evaluation, run.mesh, reader, "val"
    )
    labels = table.take(np.flatnonzero(readable)).labels
    included = np.array(BaseRate(**run.metadata["base_rate"]).included_classes)
    return [
        evaluate_scores(labels, probabilities, run.classes, included).values["mAP"]
        for probabilities in np.moveaxis(scores[readable], 1, 0)
    ]
