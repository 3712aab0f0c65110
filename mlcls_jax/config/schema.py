"""The configuration: dataclasses with every default in one place; config_checks.py checks them.

A config file is Python with a function `get_config()` that returns a `Config`; each field can be
overridden on the command line (`--config.data.batch_size=64`).  Durations are text with a unit,
"5 epochs" or "300 steps", so that no field needs a twin.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from mlcls_jax.models.variants import VARIANTS

# Fields of Data.
PATHS = (
    "csv",
    "images",
    "val_csv",
    "val_images",
    "test_csv",
    "test_images",
    "categories",
    "cache_folder",
)

# Annotated, as the command line has a parser for each type (cli.py), and none for a bare union.
PosWeight = Annotated[float | list[float] | str, "number, list of numbers or auto"]


def _choice(*values: str):
    return _choice_of(dict.fromkeys(values))


def _choice_of(values: Mapping[str, object]):
    """One of the keys; the first is the default."""
    return field(default=next(iter(values)), metadata={"choices": values})


@dataclass(slots=True)
class Data:
    """Where images and labels are, and how they are split and batched."""

    # What csv, val_csv and test_csv name: a CSV file or a packed data set (a folder, or an address
    # such as gs://bucket/photos), an instances_*.json of COCO, a tree such as VOCdevkit/VOC2007 (or
    # one of its lists, .../ImageSets/Main/trainval.txt), or a set of TFDS such as coco/2017.
    source: str = _choice("csv", "coco", "voc", "tfds")
    # Labels of all images, or of the training images when val_csv is given.
    csv: str = ""
    # csv, coco: folder that the file names start from; tfds: that its sets are in, "": its own.
    images: str = ""
    val_csv: str = ""
    val_images: str = ""  # "": the same folder as images
    test_csv: str = ""
    test_images: str = ""  # "": the same folder as images
    categories: str = ""  # optional CSV with a column Labels: the class names, in order
    filename_column: str = "filename"
    split_column: str = "split"  # used where the CSV has it
    # csv: between the labels of one column, such as ";" or " "; "": a column of 0 and 1 per class
    label_delimiter: str = ""
    label_column: str = ""  # of these; "": the one beside file names and splits
    # An image's objects of a class say that it is present, if one of them is not in doubt, and
    # else what these say.  ASL, ML-GCN and Query2Label count every annotation of COCO; VOC's own
    # evaluation leaves out what is difficult.
    crowd: str = _choice("present", "unknown", "absent")  # coco, tfds: a region, not one object
    difficult: str = _choice("unknown", "present", "absent")  # voc, tfds
    min_area: float = 0.0  # coco, tfds: in square pixels; objects that are smaller say "unknown"
    image_feature: str = "image"  # tfds
    # tfds: indices of classes, 0 and 1 for each class, or a dictionary of 0 and 1 by name
    label_feature: str = "objects/label"
    val_fraction: float = 0.25  # of all images; used where nothing else names validation ones
    test_fraction: float = 0.0
    split_seed: int = 42
    batch_size: int = 32  # over all devices
    eval_batch_size: int = 64  # over all devices
    threads: int = 0  # that decode images, per process; 0: one more than it has cores
    cache: str = _choice("none", "memory", "disk")  # of decoded images, made before training
    cache_folder: str = ""  # of cache="disk"; "": $MLCLS_JAX_CACHE or ~/.cache/mlcls_jax
    on_bad_image: str = _choice("error", "skip")  # at an image that cannot be read
    max_bad_fraction: float = 0.01  # of all images; when more are skipped, the run stops
    max_pixels: int = 80_000_000  # an image that claims more is a bad one


@dataclass(slots=True)
class Augment:
    """From a decoded image to a square one, and what training changes of it.

    Of the fields after flip, in their order: data/augment.py changes the pixels, mixing.py mixes
    pairs of images.  What is 0 is off.
    """

    train_resize: str = _choice("squash", "random_crop")
    eval_resize: str = _choice("squash", "center_crop")
    interpolation: str = _choice("bilinear", "bicubic")  # bicubic only where images grow
    min_scale: float = 0.35  # random_crop: smallest share of the image's area
    flip: bool = True
    brightness: float = 0.0  # factor uniform in [1 - brightness, 1 + brightness]
    contrast: float = 0.0  # the same
    saturation: float = 0.0  # the same
    hue: float = 0.0  # shift uniform in [-hue, hue], in shares of the colour circle
    rand_augment: int = 0  # RandAugment's operations per image
    magnitude: float = 9.0  # of these, 0 to 10
    cutout: float = 0.0  # side of a square of one colour, as a share of the image's
    erase: float = 0.0  # probability of a rectangle of noise
    mixup: float = 0.0  # alpha of the Beta distribution of a pair's shares
    cutmix: float = 0.0  # the same; with both on, each pair takes one of them at random
    mixed_labels: str = _choice("mixed", "union")  # by the shares, or all that either image has


@dataclass(slots=True)
class Model:
    """The network and the weights that it starts from."""

    variant: str = _choice_of(VARIANTS)
    weights: str = "imagenet"  # or another name (models/names.py), or a path; "": random
    image_size: int = 0  # pixels; 0: the size the variant was published with
    # A dense layer on the mean of the feature map, or an ML-Decoder (models/decoder.py) on the map,
    # which was published with learning rates of at most 1e-4.
    head: str = _choice("gap", "mldecoder")
    decoder_groups: int = 0  # of classes, each with a query; 0: as many as classes
    decoder_width: int = 768  # of the embedding
    dropout: float | None = None  # before or in the head; None: the published rate
    compute_dtype: str = _choice("auto", "float32", "bfloat16")  # auto: float32 on CPU only
    head_bias: str = _choice("log_odds", "zero")  # of a fresh head: of the class frequencies
    remat: bool = False  # less memory in training: blocks are computed again for their gradients
    sync_batch_norm: bool = False  # training norms by the statistics of all devices' rows


@dataclass(slots=True)
class Loss:
    """What training minimises: the mean over known labels.  Metrics keep to plain BCE."""

    name: str = _choice("bce", "focal", "asl")
    label_smoothing: float = 0.0  # of every label, to one half
    # bce: how much a positive counts, of all classes or of each; "auto": negatives per positive in
    # train, at most pos_weight_max and at least 1 / pos_weight_max.
    pos_weight: PosWeight = 1.0
    pos_weight_max: float = 10.0
    # focal
    gamma: float = 2.0
    alpha: float | None = None  # weight of positives, of negatives 1 - alpha; None: 1 of both
    # asl
    gamma_pos: float = 0.0
    gamma_neg: float = 4.0
    clip: float = 0.05  # negatives with a lower probability teach nothing
    focus_gradient: bool = False  # whether the focusing weights have a gradient too


@dataclass(slots=True)
class Group:
    """Parameters whose whole path matches the pattern train with this rate and decay."""

    pattern: str
    learning_rate: float
    weight_decay: float = 0.0  # on kernels only, never on biases and normalisations


@dataclass(slots=True)
class Phase:
    """A stretch of training.  The first group that matches a parameter takes it; none: frozen."""

    name: str
    duration: str  # "5 epochs" or "300 steps"; "0 steps" leaves the phase out
    groups: list[Group]
    optimizer: str = _choice("adamw", "adam", "sgd", "lion")
    momentum: float = 0.9  # of sgd, Nesterov's; 0: none
    warmup: str = "0 steps"  # linear, part of the duration
    schedule: str = _choice("cosine", "constant", "onecycle")  # onecycle has a rise of its own
    layer_decay: float = 1.0  # factor on the rates per stage from the head down; 1: off
    clip_norm: float = 1.0  # global norm of the trainable gradients; 0: off
    accumulate: int = 1  # parts of a batch, one after the other, that make one update
    ema: float = 0.0  # decay per step of an average of the parameters, scored beside them; 0: off
    patience: int = 0  # evaluations without a better val mAP that end the phase; 0: off
    batch_norm: str = _choice("frozen", "train")  # train: batch statistics where scale trains
    # Features kept in place of images: 0: off; 1: of the plain image; 2: also of the mirrored
    # one.  No other augmentation in this phase.
    cached_views: int = 0


@dataclass(slots=True)
class Evaluation:
    """When and over which classes the validation images are scored, and what follows from it."""

    every: str = "1 epoch"
    min_positives: int = 1  # classes with fewer (in all splits together) are in no mean
    # Tuned on val: from which probability on a class is said to be there.  The highest F1, or a
    # precision or recall of at least `threshold_target`.
    threshold_criterion: str = _choice("f1", "precision", "recall")
    threshold_target: float = 0.9
    min_positives_to_tune: int = 10  # classes with fewer in val share a threshold (and temperature)
    calibration: str = _choice("none", "one", "class")  # temperatures: of all classes, or of each
    # Training images that are scored like those of val, to compare: the same ones each time, at
    # most as many as val has; 0: off.
    train_sample: int = 500


@dataclass(slots=True)
class Checkpoint:
    """When the state is saved, beside each evaluation and each stop."""

    # At the next step that log_every counts; 0: between evaluations not at all.
    every_minutes: float = 10.0


@dataclass(slots=True)
class Train:
    """What a step does whose loss or gradients are not finite."""

    # stop: it ends the run, whose last checkpoint stays.  skip: the step changes nothing but its
    # number, and the next images follow.
    on_nan: str = _choice("stop", "skip")
    max_skipped: int = 10  # steps since the start or restart; one more ends the run


@dataclass(slots=True)
class Distributed:
    """How long several processes wait for each other."""

    timeout: int = 100  # seconds of silence after which a process is gone, and the others end
    start_timeout: int = 300  # seconds until all must be there


def default_phases() -> list[Phase]:
    """The head on a frozen backbone, then everything at a lower rate."""
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

    seed: int = 0  # initial parameters, order, crops and dropout
    log_every: int = 20  # steps
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    train: Train = field(default_factory=Train)
    distributed: Distributed = field(default_factory=Distributed)
    phases: list[Phase] = field(default_factory=default_phases)


def image_size(config: Config) -> int:
    """Side of the images in pixels: model.image_size, or the variant's published one."""
    return config.model.image_size or VARIANTS[config.model.variant].image_size
