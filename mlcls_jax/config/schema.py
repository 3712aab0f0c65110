"""The configuration of a run: every option, its unit or range, and its default.

A config file is Python with a function `get_config()` that returns a `Config`.  The command line
overrides single fields, as in `--config.data.batch_size=64`.  Durations are text with a unit, such
as "5 epochs", "0.5 epochs" or "300 steps".  `checks.py` refuses impossible values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from mlcls_jax.models.variants import VARIANTS

# Fields of Data that hold paths or addresses.
PATHS = (
    "csv",
    "images",
    "val_csv",
    "val_images",
    "test_csv",
    "test_images",
    "categories",
    "class_names",
    "corrections",
    "cache_folder",
)

# Annotated, because the command line needs one parser per type and has none for a plain union.
PosWeight = Annotated[float | list[float] | str, "number, list of numbers or auto"]


# Values of augment.symmetry, and how many images each makes of one (data/images/symmetry.py).
SYMMETRIES = {"h": 2, "none": 1, "hv": 4, "d4": 8}

# Values of log.to, separated by commas.
TENSORBOARD = "tensorboard"
LOGGERS = (TENSORBOARD, "wandb", "mlflow", "trackio", "comet")


def _choice(*values: str):
    return _choice_of(dict.fromkeys(values))


def _choice_of(values: Mapping[str, object]):
    """Returns a field that must be one of the keys; the first is the default."""
    return field(default=next(iter(values)), metadata={"choices": values})


@dataclass(slots=True)
class Data:
    """Where the images and labels are, and how they are split, batched and read."""

    # The kind of data set that csv, val_csv and test_csv name.
    # csv: a CSV file, a packed data set (a folder, or an address such as gs://bucket/photos), or a
    # local folder of class folders.
    # folders: a folder or an address with a folder of images for each class, such as photos/cat.
    # coco: a file instances_*.json.
    # voc: a folder such as VOCdevkit/VOC2007, or one of its ImageSets/Main/*.txt.
    # tfds: the name of a data set of TensorFlow Datasets, such as coco/2017.
    # hf: a Parquet or Arrow file of Hugging Face `datasets`, a folder of them, or a hub's name.
    # label_studio: an export of Label Studio in the format JSON, with choices.
    # fiftyone: the folder of an export of FiftyOne as FiftyOneDataset, with classifications.
    source: str = _choice("csv", "folders", "coco", "voc", "tfds", "hf", "label_studio", "fiftyone")
    csv: str = ""  # labels of all images; of the training images only, if val_csv is set
    # csv, coco, label_studio: the folder that file names are relative to.  tfds: the folder of its
    # data sets; "": the default of TFDS.  Unused for voc, fiftyone, class folders and packed data
    # sets.
    images: str = ""
    val_csv: str = ""  # labels of the validation images; "": see val_fraction
    val_images: str = ""  # image folder of val_csv; "": images
    test_csv: str = ""  # labels of the test images; "": see test_fraction
    test_images: str = ""  # image folder of test_csv; "": images
    categories: str = ""  # CSV with a column Labels: the class names, in order; "": as in the data
    # CSV of two columns, such as the class descriptions of OpenImages: what the classes are called
    # in the labels, and their names.  "": as in the labels.
    class_names: str = ""
    # CSV of corrected labels: label_suspects.csv of a run, with 1, 0 or ? (unknown) in its column
    # "corrected".  They replace the labels after the split, which stays as it was.  "": none.
    corrections: str = ""
    filename_column: str = "filename"  # csv: name of the column of file names
    # csv: name of the column of "train", "val" and "test"; the default may be absent.  "": none.
    split_column: str = "split"
    # csv: values of the split column that mean val, such as "4" for a fold or "1,2"; those that are
    # named neither here nor in test_values mean train.  "": train, val and test, or what the name
    # of the column tells.
    val_values: str = ""
    test_values: str = ""  # csv: the same for test
    # csv: name of a column of patients, videos or sites.  Images of one group are never in two
    # splits.  "": none.
    group_column: str = ""
    # The same from file names: a regular expression whose parentheses match the group, such as
    # "(patient[0-9]+)_".  "": none.
    group_pattern: str = ""
    # csv: what separates the labels in one column, such as ";" or " ".  "": one column of 0 and 1
    # per class.
    label_delimiter: str = ""
    # csv: the column that lists the labels; "": the only other one.  Without label_delimiter, its
    # cells are lists such as ['cat', 'dog'], or one label each.  label_studio: name of the tag
    # Choices.  fiftyone: the field with the labels.
    label_column: str = ""
    # csv: the column that says how certain the label of its row is, from 0 (absent) to 1 (present).
    # Labels without a row are then unknown.  "": a column "Confidence" or the like with zeros.
    confidence_column: str = ""
    # csv: names or patterns of the class columns, such as "cat,dog_*"; "": all other columns.
    label_columns: str = ""
    ignore_columns: str = ""  # csv: the same for columns to leave out
    # csv: what -1 means; "": unknown next to 0, otherwise an error that asks.
    minus_one: str = _choice("", "absent", "unknown")
    empty_cells: str = _choice("", "absent", "unknown")  # csv: the same for an empty cell
    # A class is present in an image if one of its objects there is certain.  Otherwise, crowd,
    # difficult and min_area decide.  Papers on COCO (ASL, ML-GCN, Query2Label) use the defaults;
    # VOC's own evaluation ignores difficult objects.
    crowd: str = _choice("present", "unknown", "absent")  # coco, tfds: label of a crowd region
    difficult: str = _choice("unknown", "present", "absent")  # voc, tfds: label of such an object
    min_area: float = 0.0  # coco, tfds: square pixels; smaller objects are unknown; 0: off
    # tfds, hf: path of the feature with the image.  label_studio: key of the data of a task that
    # holds the image.
    image_feature: str = "image"
    # tfds: path of the feature with the labels: class indices, a vector of 0 and 1, or a dictionary
    # of 0 and 1 by class name.
    label_feature: str = "objects/label"
    # Share of the training images drawn for validation, above 0 and below 1.  Used only if neither
    # val_csv nor the split column names validation images.
    val_fraction: float = 0.25
    test_fraction: float = 0.0  # the same for test, from 0; 0: no test split
    split_seed: int = 42  # seed of the draw of val, test and folds
    # Number of folds for cross-validation, at least 2: one run for each, which is validated on it
    # and trained on the others; 0: off.  Images that the split column names val are in the folds.
    folds: int = 0
    fold: int = -1  # the only fold to validate on, from 0; -1: one run for each of the folds
    # After the folds, trains on all of their images, with the thresholds and temperatures that were
    # tuned on the out-of-fold predictions.
    refit: bool = False
    # Shows training images with rare classes more often (repeat-factor sampling, arXiv:1908.03195);
    # an epoch keeps its number of images.  The factor of a class is the square root of
    # oversample_threshold / its share of the images, or without the root if balanced.  An image has
    # the largest factor of its classes.
    oversample: str = _choice("none", "sqrt", "balanced")
    # Share of the images, 0 to below 1; classes with less are rare.  0: the median of the classes.
    oversample_threshold: float = 0.0
    oversample_max: float = 10.0  # limit of the factors, 1 to 1000
    batch_size: int = 32  # training images per step, over all devices
    eval_batch_size: int = 64  # images per evaluation step, over all devices
    # threads: of this process.  tf_data: in TensorFlow operations.  grain: a data set of Grain with
    # the decoder of the threads.  auto: threads or tf_data, by a measured table (docs/input.md).
    loader: str = _choice("auto", "threads", "tf_data", "grain")
    # Address of a tf.data service, such as grpc://10.0.0.2:5050, whose workers read and decode the
    # training images (docs/input.md); "": this process does.
    service: str = ""
    threads: int = 0  # threads that decode images, per process; 0: the number of cores plus 1
    # Keeps decoded images, which are made before training, in main memory or in a file.
    cache: str = _choice("none", "memory", "disk")
    cache_folder: str = ""  # for cache="disk"; "": $MLCLS_JAX_CACHE, or ~/.cache/mlcls_jax
    on_bad_image: str = _choice("error", "skip")  # what to do with an image that cannot be read
    max_bad_fraction: float = 0.01  # share of all images; the run stops when more are skipped
    max_pixels: int = 80_000_000  # width times height; a larger image counts as unreadable
    # Bits in use by integers in images with more than 8 bits per channel; the upper 8 are kept.
    # auto: as many as the largest value needs, looked up in the data set before training.
    bit_depth: str = _choice("auto", "8", "10", "12", "14", "16")


@dataclass(slots=True)
class Augment:
    """How an image becomes a square of model.image_size, and how training images are changed.

    0 turns off each change from brightness to cutmix.
    """

    # squash: the whole image, ignoring its aspect ratio.  center_crop: the central square.
    # letterbox: the whole image, keeping its aspect ratio, with grey borders that fill the square.
    # random_crop: a random part of the image, ignoring its aspect ratio.
    train_resize: str = _choice("squash", "random_crop", "center_crop", "letterbox")
    # The same for evaluation and prediction.
    eval_resize: str = _choice("squash", "center_crop", "letterbox")
    # For sides that grow, or shrink to more than half; others are averaged over pixels.
    interpolation: str = _choice("bilinear", "bicubic")
    min_scale: float = 0.35  # random_crop: smallest share of the image's area, above 0 and up to 1
    # Takes a training image at random as one of its symmetric images.  none: as it is.  h: or
    # mirrored left to right.  hv: or top to bottom as well.  d4: any of the 8 symmetries of the
    # square, which are rotations by 90 degrees and mirror images, as for satellites or microscopes.
    symmetry: str = _choice_of(SYMMETRIES)
    brightness: float = 0.0  # 0 to 1; the factor is uniform in [1 - brightness, 1 + brightness]
    contrast: float = 0.0  # 0 to 1; the same for contrast
    saturation: float = 0.0  # 0 to 1; the same for saturation
    hue: float = 0.0  # 0 to 0.5; the shift is uniform in [-hue, hue] of the colour circle
    rand_augment: int | None = None  # RandAugment: operations per image.  None: by the recipe
    magnitude: float = 9.0  # RandAugment: strength of each operation, 0 to 10
    cutout: float = 0.0  # 0 to 1; side of a square of one colour, as a share of the image's side
    erase: float = 0.0  # 0 to 1; probability that a rectangle is replaced by noise
    mixup: float = 0.0  # 0.01 to 100; alpha of the Beta distribution of the mixing shares
    # 0.01 to 100; the same for CutMix.  With mixup on as well, each pair uses one at random.
    cutmix: float = 0.0
    # Labels of mixed images.  mixed: weighted by the shares.  union: all labels of both.
    mixed_labels: str = _choice("mixed", "union")
    # "module:function" that changes a training image after all of these: (uint8 [size, size, 3],
    # numpy.random.Generator) -> uint8 [size, size, 3].  "": none.
    custom: str = ""


@dataclass(slots=True)
class Model:
    """The network, and the weights that it starts from."""

    variant: str = _choice_of(VARIANTS)  # the EfficientNet: B0 to B7, V2 or Lite
    # A name (see models/weights/aliases.py), a repository of the Hugging Face Hub, such as
    # "hf-hub:user/name@revision", the path of a file, or a run; "": random weights.
    weights: str = "imagenet"
    image_size: int = 0  # side of the input in pixels, 32 to 4096; 0: the published size
    # 1 to 64.  1: grey.  3: RGB.  Any other number must be that of the images.  Pretrained weights
    # are adapted as in timm: the kernel of the stem is summed, or repeated and scaled.
    in_channels: int = 3
    # gap: global average pooling and a dense layer.  mldecoder: ML-Decoder, which attends to the
    # feature map and was published with learning rates of at most 1e-4.
    head: str = _choice("gap", "mldecoder")
    decoder_groups: int = 0  # mldecoder: groups of classes, one query each; 0: one per class
    decoder_width: int = 768  # mldecoder: width of the embedding
    # Rate in [0, 1), before the dense layer or inside the decoder; None: the published rate.
    dropout: float | None = None
    # Rate in [0, 1).  Block i of n, from 0, drops its path with i / n of it, where it trains.
    # None: the published 0.2.
    drop_path: float | None = None
    # Of activations and products; parameters are float32.  auto: float32 on CPU, else bfloat16.
    compute_dtype: str = _choice("auto", "float32", "bfloat16")
    # Bias of a new head.  log_odds: predicts the class frequencies of the training labels.
    head_bias: str = _choice("log_odds", "zero")
    remat: bool = False  # recomputes blocks in the backward pass: less memory, slower steps
    sync_batch_norm: bool = False  # batch statistics over all devices instead of each one's images
    # "module:function" that returns another network for a number of classes, instead of `variant`;
    # see docs/extending.md.  "": none.
    custom: str = ""


@dataclass(slots=True)
class Loss:
    """The training loss, averaged over the known labels.  Evaluations always report plain BCE."""

    # bce: binary cross-entropy.  focal: focal loss.  asl: asymmetric loss.
    name: str = _choice("bce", "focal", "asl")
    label_smoothing: float = 0.0  # 0 to below 1; moves labels towards one half by this share
    # bce: weight of positive labels: one number, or one per class.  "auto": the number of negatives
    # per positive in train, limited to 1 / pos_weight_max to pos_weight_max.
    pos_weight: PosWeight = 1.0
    pos_weight_max: float = 10.0  # bce: limit for pos_weight="auto", at least 1
    gamma: float = 2.0  # focal: focusing exponent; 0: none
    # focal: weight of positives, between 0 and 1; negatives get 1 - alpha.  None: both get 1.
    alpha: float | None = None
    gamma_pos: float = 0.0  # asl: focusing exponent of positives
    gamma_neg: float = 4.0  # asl: focusing exponent of negatives
    clip: float = 0.05  # asl: negatives with a probability below this have no loss
    focus_gradient: bool = False  # asl: whether gradients also flow through the focusing weights
    # "module:function" that replaces `name`: (logits, labels), both float32 [batch, class] ->
    # losses of the same shape.  "": none.
    custom: str = ""


@dataclass(slots=True)
class Group:
    """Parameters that train with the same learning rate and weight decay."""

    pattern: str  # regular expression that must match the whole path, such as "head/.*"
    learning_rate: float  # highest rate of the schedule
    weight_decay: float = 0.0  # on kernels only, not on biases or normalisation parameters


@dataclass(slots=True)
class Phase:
    """A part of training.  The first group that matches a parameter trains it; others freeze."""

    name: str  # what logs and charts call it
    duration: str  # such as "5 epochs" or "300 steps"; "0 steps" skips the phase
    groups: list[Group]
    # What turns gradients into updates.
    optimizer: str = _choice("adamw", "adam", "sgd", "lion")
    momentum: float = 0.9  # sgd: Nesterov momentum, 0 to below 1; 0: none
    warmup: str = "0 steps"  # part of the duration in which the learning rate rises linearly
    schedule: str = _choice("cosine", "constant", "onecycle")  # onecycle contains its own warmup
    # Above 0 and up to 1: each stage below the head multiplies the learning rate by it; 1: off.
    layer_decay: float = 1.0
    clip_norm: float = 1.0  # largest global norm of the trainable gradients; 0: no clipping
    accumulate: int = 1  # number of equal parts in which a batch is computed, for less memory
    # Decay per step of an exponential moving average (EMA) of the parameters, 0 to below 1; 0: off.
    # Evaluations score the EMA as well, and the better one counts.
    ema: float = 0.0
    # Ends the phase after this many evaluations in a row without a better evaluation.best; 0: off.
    patience: int = 0
    # train: normalisations whose scale trains use and update batch statistics.  frozen: none do.
    batch_norm: str = _choice("frozen", "train")
    # Computes the backbone's features once, for phases that train only the head.  0: off; 1: of the
    # plain image; 2: also of the mirrored image; 4, 8: of all images of augment.symmetry=hv or d4.
    # The phase uses no other augmentation.
    cached_views: int = 0


@dataclass(slots=True)
class Evaluation:
    """How often the validation images are scored, and how thresholds are tuned on them."""

    # Duration between evaluations, restarting with each phase.  The end of a phase is another one.
    every: str = "1 epoch"
    # Metric of val that decides the best checkpoint, `patience`, and between a phase's parameters
    # and their EMA.  CF1 is at threshold 0.5; the lowest loss is best.
    best: str = _choice("mAP", "AUROC", "CF1", "loss")
    # Classes with fewer positives in all splits together are excluded from averages over classes.
    min_positives: int = 1
    # How the threshold of each class is tuned on val.  f1: highest F1.  precision, recall: at least
    # threshold_target.
    threshold_criterion: str = _choice("f1", "precision", "recall")
    threshold_target: float = 0.9  # for precision and recall, above 0 and up to 1
    # Classes with fewer positives in val share one threshold, and one temperature.
    min_positives_to_tune: int = 10
    # Temperature scaling of the logits, fitted on val.  one: one temperature for all classes.
    # class: one per class.
    calibration: str = _choice("one", "class", "none")
    # Training images that every evaluation also scores, to show overfitting: a fixed sample, at
    # most as large as val; 0: off.
    train_sample: int = 500


@dataclass(slots=True)
class Checkpoint:
    """When the state is saved, in addition to every evaluation and every stop."""

    # Minutes since the last save, checked every log_every steps; 0: no saves between evaluations.
    every_minutes: float = 10.0


@dataclass(slots=True)
class Train:
    """What happens if the loss or the gradient norm of a step is not finite."""

    # stop: ends the run and keeps its last checkpoint.  skip: leaves the parameters unchanged and
    # continues with the next batch.
    on_nan: str = _choice("stop", "skip")
    max_skipped: int = 10  # the run ends if more steps are skipped after a start or restart


@dataclass(slots=True)
class Log:
    """Where the numbers of a run go as well; metrics.jsonl always has them."""

    # tensorboard (the folder tensorboard/ of the run), wandb, mlflow, trackio or comet, or several
    # of them, separated by commas; "": none.
    to: str = TENSORBOARD
    project: str = "mlcls_jax"  # mlflow: the experiment.  Others: the project
    run_name: str = ""  # name of the run, not for tensorboard; "": that of its folder


@dataclass(slots=True)
class Distributed:
    """How long the processes of a run wait for each other, in seconds from 5 to 86,400."""

    timeout: int = 100  # silence after which a process is considered dead and the others end
    start_timeout: int = 300  # time for all processes to start


def default_phases() -> list[Phase]:
    """Returns a phase for the head on a frozen backbone, then one for the whole network."""
    return [
        Phase("head", "6 epochs", [Group("head/.*", 1e-2)], cached_views=1),
        Phase(
            "finetune",
            "12 epochs",
            [Group("head/.*", 5e-4, 1e-2), Group("backbone/.*", 3e-4, 1e-2)],
            warmup="1 epoch",
        ),
    ]


@dataclass(slots=True)
class Config:
    """Everything that determines a run."""

    seed: int = 0  # decides initial parameters, order of images, augmentation and dropout
    # Fills in what the config leaves open.  auto: RandAugment.  fast: also limits fine-tuning to
    # the last two stages.  best: auto with data.folds=5 and data.refit.  none: nothing.
    recipe: str = _choice("auto", "fast", "best", "none")
    # Minutes that training may take: plans epochs and image size of the default phases from the
    # measured speed.  0: no limit.
    minutes: float = 0.0
    log_every: int = 20  # steps between two checks and log entries of the training loss
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    train: Train = field(default_factory=Train)
    log: Log = field(default_factory=Log)
    distributed: Distributed = field(default_factory=Distributed)
    phases: list[Phase] = field(default_factory=default_phases)


def image_size(model: Model) -> int:
    """Returns the side of the images in pixels: model.image_size, or the variant's own."""
    return model.image_size or VARIANTS[model.variant].image_size


def has_folds(data: Data) -> bool:
    """Returns whether the config asks for a run for each fold."""
    return data.folds > 0 and data.fold < 0
