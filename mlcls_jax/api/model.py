"""A trained model in Python: predict, evaluate, embed, explain and export."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mlcls_jax.api.configs import labels_of_frame
from mlcls_jax.api.images import GivenImages, ImageLike, as_file, named_images
from mlcls_jax.api.results import EvaluationResult, Predictions
from mlcls_jax.api.session import session
from mlcls_jax.config import Config
from mlcls_jax.data.images.pixel_format import PixelFormat, pixel_format
from mlcls_jax.data.images.transforms import seen_box, shrink
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.loaders.loader import Reader, cores, make_reader
from mlcls_jax.data.split_tables import SPLITS
from mlcls_jax.evaluate import AT_RECALL, RESAMPLES, labels_for
from mlcls_jax.evaluation.bootstrap import Interval
from mlcls_jax.evaluation.inference import EvalSpec, pooled, predict_dataset
from mlcls_jax.explain.grad_cam import overlay
from mlcls_jax.explain.overlays import SHORT_SIDE, class_maps
from mlcls_jax.export.__main__ import WRITERS, export_model, push_model
from mlcls_jax.models.weights.hub import FILES, hub_folder, is_hub
from mlcls_jax.options.export import INT8, SAFETENSORS, check_push
from mlcls_jax.options.shared import view_name
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.checkpoint_integrity import has_run
from mlcls_jax.run.embedding import embedding_step
from mlcls_jax.run.exported import DESCRIPTION, load_exported
from mlcls_jax.run.fingerprints import check_split_kept
from mlcls_jax.run.score_table import score_table
from mlcls_jax.run.trained_model import TrainedModel, load_trained_model, with_fitting_batch
from mlcls_jax.run.tta import with_views
from mlcls_jax.run.workdir import read_splits_of


class LoadedModel:
    """A trained model of a run, from `load`.

    Attributes:
        config: of the run.
        classes: names, in the order of the columns of predictions.
        thresholds: of each class; a class is predicted present from its threshold on.
        step: of the checkpoint.
    """

    def __init__(self, run: TrainedModel, workdir: Path, accept_changed_data: bool = False):
        """Wraps a model that was loaded from a workdir; see `load`."""
        self._run, self._workdir = run, workdir
        self._accepts_changes = accept_changed_data
        self._embedder: Any = None

    @property
    def config(self) -> Config:
        return self._run.config

    @property
    def classes(self) -> tuple[str, ...]:
        return self._run.classes

    @property
    def thresholds(self) -> Mapping[str, float]:
        return dict(zip(self.classes, self._run.decision_rule.thresholds, strict=True))

    @property
    def step(self) -> int:
        return self._run.metadata["step"]

    def __repr__(self) -> str:
        return f"<{self._run.network.variant}, {len(self.classes)} classes, step {self.step}>"

    def predict(self, images: Any, *, tta: str = "none") -> Predictions:
        """Returns the probability of each class for each image.

        An array must have the pixels of the whole image: it is resized like a file.  A large JPEG
        is decoded at a fraction of its size, so its probabilities and those of its pixels in an
        array differ slightly.

        Args:
            images: one or several of: the path of a file or folder, the bytes of a file, an image
                of Pillow, uint8 [height, width, 3] in RGB.
            tta: test-time augmentation: "none", "h", "hv", "d4" or "crops".

        Returns:
            A DataFrame with a row per image and a column per class; `.present` says which classes
            reach their thresholds.

        Raises:
            ValueError: an image cannot be read; names it.
        """
        names, given = named_images(images)
        with session():
            run = with_views(self._run, view_name(tta))
            logits = self._outputs(run.predict, names, given, run.evaluation)
        return self._predictions(names, logits)

    def embed(self, images: Any) -> np.ndarray:
        """Returns the features that the head takes, float32 [image, channel].

        For an ML-Decoder, they are the mean over the positions of the feature map.

        Args:
            images: as in `predict`.

        Raises:
            ValueError: an image cannot be read, or the network is not an EfficientNet.
        """
        names, given = named_images(images)
        with session():
            self._embedder = self._embedder or embedding_step(self._run)
            return pooled(self._outputs(self._embedder, names, given, self._run.evaluation))

    def explain(self, image: ImageLike, label: str) -> Image.Image:
        """Returns the image with the evidence for a class in colour, yellow where it is highest.

        Args:
            image: as in `predict`.
            label: name of the class.

        Raises:
            ValueError: the image cannot be read, or the class is unknown.
        """
        run, (names, given) = self._run, named_images(image)
        if label not in self.classes:
            raise ValueError(f"no class {label!r}; the classes are {', '.join(self.classes)}")
        if len(given) != 1:
            raise ValueError(f"explain takes one image, not {len(given)}")
        chosen = np.array([[self.classes.index(label)]], np.int32)
        with session():
            single = with_fitting_batch(run, 1)
            spec = single.evaluation
            (maps,) = class_maps(single, [str(names[0])], chosen, self._reader(given, spec))
            pixels = shrink(as_file(given[0], self._pixels), SHORT_SIDE)
        height, width = pixels.shape[:2]
        box = seen_box(height, width, spec.image_size, spec.augment.eval_resize)
        return Image.fromarray(overlay(pixels, maps[0], box))

    def evaluate(
        self,
        labels: str | Path | pd.DataFrame = "val",
        images: str | Path = "",
        *,
        tta: str = "none",
        resamples: int = RESAMPLES,
        at_recall: float = AT_RECALL,
    ) -> EvaluationResult:
        """Returns the metrics on labelled images; writes nothing.

        Args:
            labels: "train", "val" or "test" of the run; or other labels, as a CSV or a DataFrame
                with the columns of one.
            images: folder of the images of other labels.
            tta: test-time augmentation: "none", "h", "hv", "d4" or "crops".
            resamples: bootstrap resamples for the intervals of mAP and AUROC; 0 for none.
            at_recall: recall at which the precision is given, above 0 and up to 1.

        Raises:
            ValueError: labels or images cannot be read, the classes are others, no label is known,
                or at_recall is out of range.
        """
        if not 0 < at_recall <= 1:
            raise ValueError(f"at_recall is {at_recall}; it must be above 0 and at most 1")
        if str(images) and isinstance(labels, str) and labels in SPLITS:
            raise ValueError(
                f"the split {labels!r} has its own images; name the labels of {images} as well"
            )
        table = self._table(labels, str(images))
        if (table.labels == UNKNOWN).all():
            raise ValueError(f"{labels} has no known label, so there are no metrics; use predict")
        with session():
            run = with_views(self._run, view_name(tta))
            reader = make_reader(run.config.data, run.network.in_channels, len(table))
            logits, readable = run.outputs(table.paths, reader)
        table, logits = table.take(np.flatnonzero(readable)), logits[readable]
        rule, is_val = run.decision_rule, isinstance(labels, str) and labels == "val"
        result, scores, constant = score_table(
            run.metadata,
            table,
            logits,
            rule,
            tuned_here=is_val,
            seed=run.config.seed,
            resamples=resamples,
            at_recall=at_recall,
        )
        precisions = result["class_precision_at_recall"]
        per_class = pd.DataFrame(
            {
                "positives": table.positives,
                "average_precision": [scores.class_ap[name] for name in table.classes],
                "base_rate": [constant.class_ap[name] for name in table.classes],
                "auroc": [scores.class_auroc[name] for name in table.classes],
                "precision_at_recall": pd.Series(precisions, dtype=float).to_numpy(),
                "threshold": rule.thresholds,
            },
            index=pd.Index(table.classes, name="class"),
        )
        interval, auroc_interval = result["mAP_interval"], result["AUROC_interval"]
        return EvaluationResult(
            metrics=scores.values,
            base_rate=constant.values,
            interval=Interval(**interval) if interval else None,
            auroc_interval=Interval(**auroc_interval) if auroc_interval else None,
            per_class=per_class,
            predictions=self._predictions(list(table.filenames), logits),
            details=result,
        )

    def export(self, form: str, out: str | Path, *, quantize: str = "") -> Path:
        """Writes the model for other programs, and returns the path of the file.

        Args:
            form: "safetensors" (timm), "keras", "stablehlo" (JAX), "onnx", "saved_model"
                (TensorFlow), "tflite" (LiteRT) or "triton" (a Triton server).
            out: folder to create; it also gets a config.json with classes and thresholds.
            quantize: "int8" for an onnx file in 8-bit integers, with ranges from validation images.

        Raises:
            ValueError: the format is unknown or cannot hold the model, a package is missing, or the
                folder is not empty.
        """
        if form not in WRITERS:
            raise ValueError(f"unknown format {form!r}; choose one of {', '.join(WRITERS)}")
        if quantize not in ("", INT8):
            raise ValueError(f"quantize={quantize!r} is unknown; choose {INT8!r}, or leave it out")
        with session():
            path, _ = export_model(self._run, form, Path(out), self._workdir, quantize)
        return path

    def push(self, repo: str, *, private: bool = False) -> str:
        """Uploads the model to the Hugging Face Hub, with a model card, and returns its name there.

        Args:
            repo: such as "me/birds"; it is created if necessary.
            private: whether a new repository is private.

        Returns:
            The name that `load` and model.weights take, with the commit as its revision.

        Raises:
            ValueError: the model does not fit timm, or the Hub refuses it or cannot be reached.
        """
        check_push(repo, SAFETENSORS)
        with session(), tempfile.TemporaryDirectory() as folder:
            return push_model(self._run, self._workdir, Path(folder) / "model", repo, private)[1]

    def _table(self, labels: str | Path | pd.DataFrame, images: str) -> Any:
        run = self._run
        if isinstance(labels, pd.DataFrame):
            with tempfile.TemporaryDirectory() as folder:
                csv = Path(folder) / "DataFrame.csv"
                csv.write_text(labels_of_frame(labels), encoding="utf-8")
                return labels_for(run, str(csv), images, "csv")
        labels = str(labels)
        if labels not in SPLITS:
            return labels_for(run, labels, images)
        if not has_run(self._workdir):  # of the Hub
            raise ValueError(f"the data of the run are not there; name labels other than {labels}")
        splits = read_splits_of(self._workdir, run.config.data)
        if labels not in splits:
            raise ValueError(f"the run has no split {labels!r}; it has {', '.join(splits)}")
        threads = run.config.data.threads or cores() + 1
        check_split_kept(self._workdir, labels, splits[labels], threads, self._accepts_changes)
        return splits[labels]

    def _predictions(self, names: list[Any], logits: np.ndarray) -> Predictions:
        values = self._run.decision_rule.probabilities(logits)
        predictions = Predictions(values, index=pd.Index(names, name="image"), columns=self.classes)
        predictions.thresholds = self.thresholds
        return predictions

    def _outputs(
        self, program: Any, names: list[Any], images: list[ImageLike], spec: EvalSpec
    ) -> np.ndarray:
        """Returns what a compiled program gives for each image, in order."""
        spec = self._with_batch_for(len(images), spec)
        paths = [name if isinstance(name, str) else f"number {name}" for name in names]
        reader = self._reader(images, spec)
        try:
            outputs, _ = predict_dataset(
                program, self._run.variables, paths, spec, self._run.mesh, reader
            )
        except ValueError as error:
            # What follows is advice on a data set.
            raise ValueError(str(error).partition("; replace the file")[0]) from None
        return outputs

    def _reader(self, images: list[ImageLike], spec: EvalSpec) -> Reader:
        source = GivenImages(images, spec.image_size, spec.augment, self._pixels)
        return Reader(self._pixels, self._run.config.data.threads, cache=source)

    @property
    def _pixels(self) -> PixelFormat:
        return pixel_format(self._run.config.data, self._run.network.in_channels)

    def _with_batch_for(self, images: int, spec: EvalSpec) -> EvalSpec:
        """Returns the spec with a batch that fits; a power of 4 per device, so that few compile."""
        size = self._run.mesh.size
        while size < min(images, spec.batch_size):
            size *= 4
        return dataclasses.replace(spec, batch_size=min(size, spec.batch_size))


def load(
    workdir: str | Path, checkpoint: str | int = "best", *, accept_changed_data: bool = False
) -> LoadedModel:
    """Loads a trained model of a run, or one that was pushed to the Hugging Face Hub.

    Args:
        workdir: folder of the run; or "hf-hub:user/name", or "hf-hub:user/name@revision".
        checkpoint: "best", "latest" or a step, of a run.
        accept_changed_data: whether the model is also loaded, and evaluated on the splits of its
            run, if config.json, labels or splits have been changed since.

    Raises:
        ValueError: the folder holds no run, the checkpoint does not exist or is damaged, or the
            config was changed; or the repository does not exist, cannot be reached or holds no
            model of this trainer.
    """
    name = str(workdir)
    if is_hub(name):
        if checkpoint != "best":
            raise ValueError(f"{name} has one checkpoint; choose a revision: {name}@REVISION")
        with session():
            files, found = hub_folder(name, (*FILES, DESCRIPTION))
            return LoadedModel(load_exported(files, str(found)), files)
    folder = open_workdir(workdir).expanduser()
    with session():
        run = load_trained_model(folder, str(checkpoint), accept_changed_data)
        return LoadedModel(run, folder, accept_changed_data)
