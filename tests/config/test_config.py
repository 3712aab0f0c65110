"""All config files load, and every mistake is refused with the name of its field."""

import ast
import dataclasses
import json
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcls_jax.config import Config, Data, Group, Loss, Model, Phase, loading, schema
from mlcls_jax.config.checks import validate
from mlcls_jax.config.durations import duration_in_steps
from mlcls_jax.config.schema import image_size
from mlcls_jax.config.serialization import (
    describe_network,
    differences,
    from_dict,
    to_json,
    with_absolute_paths,
)
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.aliases import resolve

# ml_collections loads a config file by a method that Python has deprecated.
ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))
B_SIZES = dict(
    zip((f"b{i}" for i in range(8)), (224, 240, 260, 300, 380, 456, 528, 600), strict=True)
)
LITE_SIZES = dict(zip((f"lite{i}" for i in range(5)), (224, 240, 260, 280, 300), strict=True))
V2_SIZES = {"v2b0": 224, "v2b1": 240, "v2b2": 260, "v2b3": 300, "v2s": 384, "v2m": 480, "v2l": 480}
SIZES = B_SIZES | LITE_SIZES | V2_SIZES


def changed(path: str, value) -> Config:
    """The default config with one field set, by a path such as phases[0].groups[0].pattern."""
    config = Config()
    *owners, name = re.findall(r"\w+", path)
    node = config
    for owner in owners:
        node = node[int(owner)] if owner.isdigit() else getattr(node, owner)
    setattr(node, name, value)
    return config


def set_value(tree, path: str, value) -> None:
    *owners, name = [int(k) if k.isdigit() else k for k in re.findall(r"\w+", path)]
    for key in owners:
        tree = tree[key]
    tree[name] = value


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_file_loads_and_survives_json(file):
    config = loading.load_config(str(file), [])
    validate(config)
    assert from_dict(json.loads(to_json(config))) == config
    assert resolve(config.model.weights, config.model.variant).variant == config.model.variant
    if file.stem in SIZES:
        assert config.model.variant == file.stem
        assert image_size(config.model) == SIZES[file.stem]
        assert config.model.weights == "imagenet"


def test_every_variant_has_a_config_file():
    assert {file.stem for file in FILES} == {*VARIANTS, "default", "demo", "coco_b5", "coco_v2s"}
    assert set(SIZES) == set(VARIANTS)


def test_a_given_image_size_replaces_the_published_one():
    assert image_size(Model("b3", image_size=96)) == 96


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("log_every", 0),
        ("checkpoint.every_minutes", -1.0),
        ("checkpoint.every_minutes", float("inf")),
        ("checkpoint.every_minutes", float("nan")),
        ("data.val_fraction", 0.0),
        ("data.val_fraction", 1.0),
        ("data.val_fraction", float("nan")),
        ("data.test_fraction", -0.1),
        ("data.test_fraction", 0.75),
        ("data.split_seed", -1),
        ("data.split_seed", 2**32),
        ("data.batch_size", 0),
        ("data.eval_batch_size", -3),
        ("data.filename_column", ""),
        ("distributed.timeout", 4),
        ("distributed.start_timeout", 0),
        ("distributed.start_timeout", 86_401),
        ("data.source", "kitti"),
        ("data.label_delimiter", "a"),
        ("data.minus_one", "negative"),
        ("data.empty_cells", "0"),
        ("data.crowd", "absent"),  # only for other sources, like the next three
        ("data.difficult", "present"),
        ("data.min_area", 1.0),
        ("data.min_area", -1.0),
        ("data.min_area", float("nan")),
        ("data.image_feature", ""),
        ("data.label_feature", "labels"),
        ("data.oversample", "root"),
        ("data.oversample_threshold", 0.1),  # not used without oversample
        ("data.oversample_max", 5.0),
        ("augment.train_resize", "pad"),
        ("augment.eval_resize", "random_crop"),
        ("augment.symmetry", "v"),
        ("augment.interpolation", "nearest"),
        ("augment.min_scale", 0.0),
        ("augment.min_scale", 1.01),
        ("augment.brightness", 1.01),
        ("augment.contrast", -0.1),
        ("augment.saturation", float("nan")),
        ("augment.hue", 0.51),
        ("augment.rand_augment", -1),
        ("augment.magnitude", 10.1),
        ("augment.cutout", 1.5),
        ("augment.erase", -0.5),
        ("augment.mixup", -1.0),
        ("augment.mixup", 0.001),
        ("augment.cutmix", float("inf")),
        ("augment.mixed_labels", "either"),
        ("model.variant", "b8"),
        ("model.image_size", 31),
        ("model.image_size", 4097),
        ("model.dropout", 1.0),
        ("model.dropout", -0.1),
        ("model.compute_dtype", "float16"),
        ("model.head_bias", "prior"),
        ("loss.name", "mse"),
        ("loss.label_smoothing", -0.1),
        ("loss.label_smoothing", 1.0),
        ("loss.pos_weight", 0.0),
        ("loss.pos_weight", float("nan")),
        ("loss.pos_weight", "balanced"),
        ("loss.pos_weight", []),
        ("loss.pos_weight", [1.0, -1.0]),
        ("loss.pos_weight", [1.0, float("inf")]),
        ("loss.pos_weight_max", 0.5),
        ("loss.gamma", -1.0),
        ("loss.alpha", 0.0),
        ("loss.alpha", 1.0),
        ("loss.gamma_pos", -0.5),
        ("loss.gamma_neg", float("inf")),
        ("loss.clip", -0.1),
        ("loss.clip", 1.0),
        ("model.head", "attention"),
        ("model.decoder_groups", -1),
        ("model.decoder_groups", 25),  # the default head has no groups
        ("model.decoder_width", 0),
        ("model.decoder_width", 100),
        ("model.decoder_width", 512),  # the default head has no decoder
        ("evaluation.every", "0 epochs"),
        ("evaluation.every", "often"),
        ("evaluation.min_positives", 0),
        ("evaluation.threshold_criterion", "accuracy"),
        ("evaluation.threshold_target", 0.0),
        ("evaluation.threshold_target", 1.01),
        ("evaluation.threshold_target", float("nan")),
        ("evaluation.min_positives_to_tune", 0),
        ("evaluation.calibration", "platt"),
        ("train.on_nan", "ignore"),
        ("train.max_skipped", 0),
        ("train.max_skipped", 5),  # on_nan is "stop"
        ("evaluation.train_sample", -1),
        ("phases", []),
        ("phases[0].name", ""),
        ("phases[0].name", "a/b"),
        ("phases[0].name", "finetune"),
        ("phases[1].duration", "5"),
        ("phases[1].warmup", "1.5 steps"),
        ("phases[0].schedule", "linear"),
        ("phases[0].batch_norm", "on"),
        ("phases[0].clip_norm", -1.0),
        ("phases[0].clip_norm", float("nan")),
        ("phases[0].clip_norm", float("inf")),
        ("phases[0].groups", []),
        ("phases[0].optimizer", "adagrad"),
        ("phases[0].momentum", 0.5),  # adamw has no momentum
        ("phases[1].schedule", "onecycle"),  # which has its own warmup
        ("phases[0].layer_decay", 0.0),
        ("phases[0].layer_decay", 1.01),
        ("phases[0].accumulate", 0),
        ("phases[0].accumulate", 5),  # does not divide 32 rows
        ("phases[0].ema", 1.0),
        ("phases[0].ema", -0.1),
        ("phases[0].ema", float("nan")),
        ("phases[0].patience", -1),
        ("phases[0].cached_views", -1),
        ("phases[0].cached_views", 3),
        ("phases[1].groups[1].pattern", "head/("),
        ("phases[1].groups[1].pattern", "(" * 5000),
        ("phases[1].groups[1].pattern", "a{99999999999}"),
        ("phases[0].duration", "9" * 400 + " steps"),
        ("phases[0].warmup", "1000000001 epochs"),
        ("phases[1].groups[0].learning_rate", 0.0),
        ("phases[1].groups[0].learning_rate", float("nan")),
        ("phases[1].groups[0].learning_rate", float("inf")),
        ("phases[1].groups[0].weight_decay", -1e-3),
        ("phases[1].groups[0].weight_decay", float("inf")),
    ],
)
def test_an_impossible_value_is_refused_by_name(path, value):
    with pytest.raises(ValueError, match=r"^config: ") as info:
        validate(changed(path, value))
    assert path in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "1"),
        ("seed", 1.5),
        ("data.batch_size", 8.0),
        ("data.csv", None),
        ("data.label_delimiter", 1),
        ("data.min_area", "small"),
        ("augment.symmetry", True),
        ("augment.rand_augment", 2.0),
        ("model.dropout", "0.2"),
        ("evaluation.every", 1),
        ("evaluation.threshold_target", "0.9"),
        ("checkpoint.every_minutes", "10"),
        ("evaluation.min_positives_to_tune", 2.5),
        ("train.max_skipped", "10"),
        ("evaluation.train_sample", 0.5),
        ("seed", True),
        ("data.batch_size", True),
        ("data.val_fraction", True),
        ("model.dropout", False),
        ("model.decoder_groups", 2.0),
        ("loss.pos_weight", True),
        ("loss.pos_weight", None),
        ("loss.pos_weight", [1.0, "2"]),
        ("loss.pos_weight", [1.0, True]),
        ("loss.alpha", "0.25"),
        ("loss.focus_gradient", 1),
        ("distributed.timeout", 7.5),
    ],
)
def test_a_wrong_type_is_refused_by_name(path, value):
    with pytest.raises(ValueError, match=r"^config: ") as info:
        validate(changed(path, value))
    assert f'"{path}"' in str(info.value)


def test_a_bool_in_a_list_of_phases_is_refused_too():
    with pytest.raises(ValueError, match=r'"phases\.groups\.learning_rate" .* of type "bool"'):
        validate(changed("phases[1].groups[0].learning_rate", True))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 2**31 - 1),
        ("model.dropout", None),
        ("model.dropout", 0.0),
        ("model.image_size", 32),
        ("augment.min_scale", 1.0),
        ("loss.label_smoothing", 0.99),
        ("loss.pos_weight", "auto"),
        ("loss.pos_weight", 3),
        ("loss.pos_weight", [1, 0.01]),
        ("augment.brightness", 1.0),
        ("augment.hue", 0.5),
        ("augment.magnitude", 0.0),
        ("augment.magnitude", 10),
        ("augment.erase", 1.0),
        ("augment.mixup", 0.01),
        ("augment.cutmix", 100.0),
        ("data.test_fraction", 0.74),
        ("distributed.timeout", 5),
        ("distributed.start_timeout", 86_400),
        ("data.label_delimiter", " "),
        ("data.label_delimiter", "; "),
        ("evaluation.threshold_target", 1.0),
        ("evaluation.min_positives_to_tune", 1),
        ("checkpoint.every_minutes", 0),
        ("checkpoint.every_minutes", 1e9),
        ("evaluation.calibration", "class"),
        ("train.on_nan", "skip"),
        ("evaluation.train_sample", 0),
        ("phases[0].duration", "0 steps"),
        ("phases[0].clip_norm", 0.0),
        ("phases[0].groups[0].learning_rate", 1),
        ("phases[0].optimizer", "lion"),
        ("phases[0].schedule", "onecycle"),
        ("phases[0].layer_decay", 0.01),
        ("phases[0].accumulate", 32),
        ("phases[0].ema", 0.99999),
        ("phases[0].patience", 1),
        ("phases[0].cached_views", 2),
    ],
)
def test_the_outermost_allowed_values_pass(path, value):
    validate(changed(path, value))


@pytest.mark.parametrize(
    "path", ["sede", "data.batchsize", "model.varient", "phases[0].groups[0].lr"]
)
def test_from_dict_refuses_a_field_that_does_not_exist(path):
    values = dataclasses.asdict(Config())
    set_value(values, path, 1)
    with pytest.raises(ValueError, match=re.findall(r"\w+", path)[-1]):
        from_dict(values)


def test_from_dict_needs_the_fields_without_a_default():
    values = dataclasses.asdict(Config())
    del values["phases"][0]["groups"][0]["learning_rate"]
    with pytest.raises(ValueError, match="learning_rate"):
        from_dict(values)


def test_values_other_than_the_defaults_survive_json():
    config = Config(seed=7, model=Model("lite2", weights="", dropout=0.125))
    config.loss.pos_weight = [0.5, 2.0]
    config.data.csv = 'Bilder/ä "quoted" \\ back.csv'
    config.phases = [Phase("only", "7 steps", [Group(r"head/\w+", 1e-4, 3e-5)], clip_norm=0.0)]
    text = to_json(config)
    assert text.endswith("}\n")
    assert from_dict(json.loads(text)) == config
    assert from_dict(json.loads(text)) != Config()


def test_differences_name_each_field_with_both_values():
    a, b = Config(), Config(seed=3)
    b.phases[1].groups[0].weight_decay = 0.5
    b.model.dropout = 0.1
    assert differences(a, a) == []
    assert differences(a, b) == [
        "seed: 0 -> 3",
        "model.dropout: None -> 0.1",
        "phases[1].groups[0].weight_decay: 0.01 -> 0.5",
    ]


def test_differences_show_fields_of_one_side_only():
    a, b = Config(), Config()
    b.phases = b.phases[:1]
    forward, back = differences(a, b), differences(b, a)
    assert forward and all(line.startswith("phases[1].") for line in forward)
    assert "phases[1].name: 'finetune' -> 'absent'" in forward
    assert "phases[1].name: 'absent' -> 'finetune'" in back
    assert len(forward) == len(back)


def test_absolute_paths_leave_the_original_and_the_empty_fields_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = Config()
    config.data.csv, config.data.images, config.data.test_csv = "a.csv", "~/photos", "/t.csv"
    config.data.cache_folder = "cache"
    result = with_absolute_paths(config)
    assert result.data.csv == str(tmp_path / "a.csv")
    assert result.data.images == "/home/someone/photos"
    assert result.data.test_csv == "/t.csv"
    assert result.data.cache_folder == str(tmp_path / "cache")
    assert result.data.val_csv == result.data.categories == ""
    assert result.model.weights == "imagenet"
    assert config.data.csv == "a.csv"
    config.data.csv = "gs://bucket/photos"
    assert with_absolute_paths(config).data.csv == "gs://bucket/photos"
    config.model.weights = "w.h5"
    assert with_absolute_paths(config).model.weights == str(tmp_path / "w.h5")


def test_defaults_are_not_shared_between_configs():
    first, second = Config(), Config()
    first.phases[0].groups[0].learning_rate = 9.0
    first.data.csv = "x"
    assert second == Config()
    assert differences(first, second)


@pytest.mark.parametrize(
    ("duration", "images", "batch_size", "times", "steps"),
    [
        ("300 steps", 10, 4, 1, 300),
        ("1 step", 10, 4, 1, 1),
        ("1 epoch", 100, 10, 1, 10),
        ("2 epochs", 105, 10, 1, 21),  # rounded once, not per epoch (2 * 10 or 2 * 11)
        ("1 epochs", 105, 10, 3, 32),  # 31.5
        ("0.5 epochs", 100, 10, 1, 5),
        ("0.25 epoch", 100, 10, 4, 10),
        ("3 steps", 1, 1, 5, 15),
        ("1 epoch", 3, 64, 1, 1),  # fewer images than a batch
        ("0.001 epochs", 3, 64, 1, 1),
        ("64 epochs", 3, 64, 1, 3),
        ("0 epochs", 100, 10, 1, 0),
        ("0 steps", 100, 10, 9, 0),
        ("0.0 epochs", 100, 10, 1, 0),
    ],
)
def test_durations(duration, images, batch_size, times, steps):
    assert duration_in_steps(duration, images, batch_size, times) == steps


@pytest.mark.parametrize(
    "duration",
    [
        *(
            "",
            "5",
            "epochs",
            "5epochs",
            "5  epochs",
            " 5 epochs",
            "5 epochs ",
            "5 epochs\n",
            "-1 steps",
        ),
        *(
            "1.5 steps",
            "1. epochs",
            ".5 epochs",
            "1e3 steps",
            "5 Epochs",
            "5 batches",
            "nan epochs",
        ),
    ],
)
def test_a_malformed_duration_is_refused_and_quoted(duration):
    with pytest.raises(ValueError, match="is not a duration") as info:
        duration_in_steps(duration, 10, 10)
    assert repr(duration) in str(info.value)


@settings(max_examples=60, deadline=None)
@given(
    tenths=st.integers(1, 200),
    images=st.integers(1, 10_000),
    batch_size=st.integers(1, 512),
    times=st.integers(1, 20),
)
def test_epochs_are_at_most_half_a_step_from_the_exact_number(tenths, images, batch_size, times):
    steps = duration_in_steps(f"{tenths / 10} epochs", images, batch_size, times)
    exact = Fraction(tenths * times * images, 10 * batch_size)
    assert steps >= 1
    assert abs(steps - max(exact, 1)) <= Fraction(1, 2) + Fraction(1, 10**6)


def test_every_field_is_read_by_a_module_other_than_the_config():
    """A field that nothing reads would have no effect."""
    read = set()
    for file in (ROOT / "mlcls_jax").rglob("*.py"):
        if file.parent.name != "config":
            nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            read |= {
                node.attr
                for node in nodes
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            }
    classes = [
        value
        for value in vars(schema).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    ]
    assert len(classes) == 12
    unread = {
        f"{cls.__name__}.{field.name}"
        for cls in classes
        for field in dataclasses.fields(cls)
        if field.name not in read
    }
    assert not unread


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"gamma": 1.0}, "loss.gamma is 1.0, but loss.name is 'bce'"),
        ({"name": "focal", "clip": 0.1}, "loss.clip is 0.1, but loss.name is 'focal'"),
        ({"name": "asl", "alpha": 0.5}, "loss.alpha is 0.5, but loss.name is 'asl'"),
        ({"name": "asl", "pos_weight": "auto"}, "loss.pos_weight is 'auto', but loss.name is"),
        ({"pos_weight": 2.0, "pos_weight_max": 5.0}, "loss.pos_weight_max is 5.0, but"),
    ],
)
def test_settings_of_another_loss_are_refused(values, refused):
    with pytest.raises(ValueError, match=re.escape(refused)):
        validate(Config(loss=Loss(**values)))


@pytest.mark.parametrize(
    "loss",
    [
        Loss("focal", gamma=0.0, alpha=0.25, label_smoothing=0.1),
        Loss("asl", gamma_pos=1.0, gamma_neg=2.0, clip=0.0, focus_gradient=True),
        Loss(pos_weight="auto", pos_weight_max=1.0),
    ],
)
def test_settings_of_the_chosen_loss_pass(loss):
    validate(Config(loss=loss))


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"oversample_threshold": 0.1}, "data.oversample_threshold is 0.1, but data.oversample is"),
        ({"oversample_max": 5.0}, "data.oversample_max is 5.0, but data.oversample is 'none'"),
        ({"oversample": "sqrt", "oversample_threshold": 1.0}, "it must be at least 0 (the median"),
        ({"oversample": "sqrt", "oversample_threshold": -0.1}, "it must be at least 0 (the median"),
        ({"oversample": "sqrt", "oversample_threshold": math.nan}, "it must be at least 0"),
        ({"oversample": "balanced", "oversample_max": 0.9}, "it must be 1 to 1000"),
        ({"oversample": "balanced", "oversample_max": math.inf}, "it must be 1 to 1000"),
    ],
)
def test_settings_of_oversampling_are_checked(fields, refused):
    with pytest.raises(ValueError, match=re.escape(refused)):
        validate(Config(data=Data(**fields)))
    validate(Config(data=Data(oversample="sqrt", oversample_threshold=0.1, oversample_max=1000)))


def test_settings_of_a_source_pass_for_that_source_only():
    validate(Config(data=Data(source="coco", crowd="absent", min_area=1024.0)))
    validate(Config(data=Data(source="voc", difficult="present")))
    features = {"image_feature": "image", "label_feature": "labels"}
    validate(Config(data=Data(source="tfds", images="/data/tfds", min_area=9.0, **features)))
    for data, refused in [
        (Data(source="coco", split_column=""), "data.split_column is '', but data.source is"),
        (Data(source="coco", difficult="absent"), "data.difficult is 'absent', but data.source"),
        (Data(source="voc", images="JPEGImages"), "data.images is 'JPEGImages', but the images"),
        (Data(source="tfds", val_images="x"), "data.val_images is 'x', but the images"),
    ]:
        with pytest.raises(ValueError, match=re.escape(refused)):
            validate(Config(data=data))


def test_names_of_tfds_data_sets_are_not_paths():
    data = Data(source="tfds", csv="coco/2017", images="tfds")
    absolute = with_absolute_paths(Config(data=data)).data
    assert absolute.csv == "coco/2017" and absolute.images == str(Path("tfds").absolute())


def test_the_outermost_decoders_pass():
    for groups, width in ((0, 8), (10_000, 768), (1, 2048)):
        head = {"head": "mldecoder", "decoder_groups": groups, "decoder_width": width}
        validate(Config(model=Model(**head)))


@pytest.mark.parametrize(("momentum", "allowed"), [(0.0, True), (0.99, True), (1.0, False)])
def test_momentum_belongs_to_sgd(momentum, allowed):
    config = changed("phases[0].optimizer", "sgd")
    config.phases[0].momentum = momentum
    if allowed:
        return validate(config)
    with pytest.raises(ValueError, match=r"phases\[0\]\.momentum is 1\.0; it must be"):
        validate(config)


def test_sync_batch_norm_needs_a_phase_with_batch_statistics():
    config = Config(model=Model(sync_batch_norm=True))
    with pytest.raises(
        ValueError, match=r'sync_batch_norm is True, .* phase with batch_norm="train"'
    ):
        validate(config)
    config.phases[1].batch_norm = "train"
    validate(config)


@pytest.mark.parametrize(
    ("symmetry", "views", "wider"), [("none", 1, "h"), ("h", 2, "hv"), ("hv", 4, "d4")]
)
def test_there_are_as_many_views_as_symmetric_images(symmetry, views, wider):
    config = changed("augment.symmetry", symmetry)
    config.phases[0].cached_views = views
    validate(config)
    config.phases[0].cached_views = 2 * views
    message = rf"cached_views is {2 * views}, but augment\.symmetry is .* set .*={views}, or .*"
    with pytest.raises(ValueError, match=message + wider):
        validate(config)
    config.phases[0].cached_views = 3
    with pytest.raises(ValueError, match=r"cached_views is 3; it must be 0 \(off\), 1, 2, 4 or 8"):
        validate(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train_resize", "random_crop"),
        ("hue", 0.1),
        ("rand_augment", 2),
        ("erase", 0.25),
        ("cutmix", 1.0),
    ],
)
def test_augmentation_needs_a_phase_that_sees_images(field, value):
    config = changed(f"augment.{field}", value)
    config.phases[0].cached_views = 1
    validate(config)
    config.phases[1].duration = "0 steps"
    with pytest.raises(ValueError, match=rf"augment\.{field} is {value!r}, but every phase has"):
        validate(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [("label_columns", "cat,d*"), ("minus_one", "absent"), ("empty_cells", "absent")],
)
def test_settings_of_class_columns_exclude_a_delimiter(name, value):
    data = Data(csv="labels.csv", **{name: value})
    validate(Config(data=data))
    with pytest.raises(ValueError, match=rf"data\.{name} is .*; remove one of the two"):
        validate(Config(data=dataclasses.replace(data, label_delimiter=";")))
    with pytest.raises(ValueError, match=rf"data\.{name} is .*; remove one of the two"):
        validate(Config(data=dataclasses.replace(data, label_column="labels")))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            Data(source="voc", group_column="patient"),
            "data.group_column is 'patient', but data.sou",
        ),
        (Data(group_column="patient", group_pattern="p"), "an image has one group"),
        (Data(group_pattern="(p"), "data.group_pattern is '(p', which is no regular expression"),
    ],
)
def test_groups_that_cannot_be_found_are_refused(data, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        validate(Config(data=data))


def test_the_description_names_variant_size_and_decoder():
    assert describe_network(Model(), 80) == "EfficientNet b0, 224 px"
    assert describe_network(Model(in_channels=1), 80) == "EfficientNet b0, 224 px, 1 channel"
    model = Model("lite0", head="mldecoder", decoder_groups=20)
    expected = "EfficientNet lite0, 224 px, ML-Decoder with 20 queries"
    assert describe_network(model, 80) == expected
