"""ml.train and ml.config: the same run as the command, with functions of the caller."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mlcls_jax as ml
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.train import train as command

SIZE, CLASSES = 32, 3


@pytest.fixture
def config(photos, tiny) -> ml.Config:
    return ml.Config(
        recipe="none",
        log_every=2,
        data=ml.Data(
            csv=str(photos / "labels.csv"), images=str(photos), batch_size=8, eval_batch_size=8
        ),
        model=ml.Model(variant=tiny, weights="", image_size=SIZE),
        phases=[
            ml.Phase("head", "2 steps", [ml.Group("head/.*", 1e-2)], cached_views=1),
            ml.Phase("all", "3 steps", [ml.Group(".*", 1e-2)]),
        ],
    )


def variables(workdir) -> dict:
    return jax.device_get(load_trained_model(workdir, "latest").variables)


def assert_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def half(logits, labels):
    """Half of the squared error of the logits."""
    return 0.5 * (logits - jnp.maximum(labels, 0)) ** 2


def darken(image, rng):
    return (image * rng.uniform(0.5, 1.0)).astype(np.uint8)


class Small(nn.Module):
    """A convolution with batch normalisation, and a head."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(4, (3, 3), strides=4, name="stem")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x).mean((1, 2)))
        return nn.Dense(self.num_classes, name="head")(x)


def test_the_same_run_as_the_command(config, tmp_path):
    run = ml.train(config, tmp_path / "api")
    assert run.is_finished
    command(config, tmp_path / "command")
    assert_equal(variables(tmp_path / "api"), variables(tmp_path / "command"))
    history = run.history
    assert list(history.index) == [2, 5]
    assert list(history["phase"]) == ["head", "all"]
    assert history["val.mAP"].between(0, 1).all()


def test_labels_from_a_data_frame(config, photos, tmp_path):
    frame = pd.read_csv(photos / "labels.csv")
    config.data.csv = frame
    run = ml.train(config, tmp_path / "run")
    assert pd.read_csv(run.config.data.csv).equals(frame)
    assert ml.train(config, tmp_path / "run").is_finished  # nothing is left to do
    config.data.csv = frame.iloc[1:]
    with pytest.raises(ValueError, match="the DataFrame differs from"):
        ml.train(config, tmp_path / "run")


def test_a_loss_and_an_augmentation_are_used_and_named_in_the_config(config, tmp_path):
    plain = ml.train(config, tmp_path / "plain")
    own = ml.train(config, tmp_path / "own", loss=half, augment=darken)
    stored = json.loads((tmp_path / "own" / "config.json").read_text())
    assert stored["loss"]["custom"].endswith(":half")
    assert stored["augment"]["custom"].endswith(":darken")
    assert list(own.history["loss_name"].unique()) == ["half"]
    assert plain.history["train_loss"].iloc[0] != own.history["train_loss"].iloc[0]


def test_a_loss_without_one_value_per_class_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="without a mean or a sum"):
        ml.train(config, tmp_path / "run", loss=lambda logits, labels: logits.mean())


def test_an_augmentation_that_returns_floats_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"returns float64 \[32, 32, 3\]; it must return uint8"):
        ml.train(config, tmp_path / "run", augment=lambda image, rng: image / 255)


def test_loggers_and_metrics_see_every_evaluation(config, tmp_path, capsys):
    seen = []

    def fails(step, values):
        raise RuntimeError("no network")

    class Whole(ml.RunLogger):
        config = lambda self, values: told.append(values["model"]["variant"])  # noqa: E731
        images = lambda self, step, title, images: told.append((step, title, images))  # noqa: E731
        artifacts = lambda self, files: told.append([file.name for file in files])  # noqa: E731
        end = lambda self, state: told.append(state)  # noqa: E731

    told, config.log.to = [], ""
    run = ml.train(
        config,
        tmp_path / "run",
        loggers=[lambda step, values: seen.append((step, values)), fails, Whole()],
        metrics={"share": lambda labels, probabilities: float((probabilities > 0.5).mean())},
    )
    evaluations = {step: values["val/share"] for step, values in seen if "val/share" in values}
    assert evaluations == run.history["val.share"].to_dict()
    assert {"step/loss", "step/grad_norm"} <= {name for _, values in seen for name in values}
    output = capsys.readouterr()
    assert (output.out + output.err).count("RuntimeError: no network") == 1
    variant, *images, files, state = told
    assert (variant, state) == ("tiny", "finished") and "report.html" in files
    assert {title for _, title, _ in images} == {"missed", "false positives"}
    shown = [image for _, _, some in images for image in some]
    assert shown and all(image.jpeg.startswith(b"\xff\xd8") for image in shown)
    assert all("; labels: " in image.caption for image in shown)
    assert not (tmp_path / "run" / "tensorboard").exists()
    ml.train(config, tmp_path / "run", loggers=Whole())  # nothing is left to do
    assert told[-1] == state and told.count(state) == 1


def test_own_batches_replace_those_of_the_table_and_continue_exactly(config, tmp_path):
    asked = []

    def batches(first_step):
        asked.append(first_step)
        for step in range(first_step, 100):
            rng = np.random.default_rng(step)
            images = rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
            yield images, rng.integers(0, 2, (8, CLASSES))

    whole = ml.train(config, tmp_path / "whole", batches=batches)
    assert asked == [0, 2]
    assert [phase.cached_views for phase in whole.config.phases] == [0, 0]
    ml.train(config, tmp_path / "parts", batches=list_of(batches, 5))
    assert_equal(variables(tmp_path / "whole"), variables(tmp_path / "parts"))


def list_of(batches, count: int) -> list:
    iterator = batches(0)
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((np.zeros((8, SIZE, SIZE, 3), np.float32), np.zeros((8, CLASSES))), "images float32"),
        ((np.zeros((8, SIZE, SIZE, 3), np.uint8), np.zeros((8, 2))), r"labels \[8, 2\]"),
        (
            (np.zeros((8, SIZE, SIZE, 3), np.uint8), np.full((8, CLASSES), 2)),
            "labels other than 0 to 1",
        ),
        ((np.zeros((8, SIZE, SIZE, 3), np.uint8),), "not a pair"),
    ],
)
def test_impossible_batches_are_refused(config, tmp_path, batch, message):
    with pytest.raises(ValueError, match=message):
        ml.train(config, tmp_path / "run", batches=[batch] * 5)


def test_batches_that_end_too_early_are_refused(config, tmp_path):
    batch = np.zeros((8, SIZE, SIZE, 3), np.uint8), np.zeros((8, CLASSES))
    with pytest.raises(ValueError, match="they end before step 5 of 5"):
        ml.train(config, tmp_path / "run", batches=[batch] * 4)


def test_own_batches_are_not_oversampled(config, tmp_path):
    config.data.oversample = "sqrt"
    with pytest.raises(ValueError, match=r"data\.oversample is 'sqrt', but batches of your own"):
        ml.train(config, tmp_path / "run", batches=[])


def test_a_custom_network_is_frozen_and_trained_by_the_same_groups(config, tmp_path):
    config.model = ml.Model(weights="", image_size=SIZE)
    config.phases[1].batch_norm = "train"
    config.phases[1].groups[:] = [ml.Group("head/.*", 1e-2), ml.Group("backbone/.*", 1e-2)]
    given = Small(CLASSES).init(jax.random.key(7), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    seen = []
    run = ml.train(
        config,
        tmp_path / "run",
        network=Small,
        variables=given,
        loggers=[lambda step, values: seen.append(step)],
    )
    trained = variables(run.workdir)
    first = jax.device_get(load_trained_model(run.workdir, "2").variables)
    kernel = given["params"]["stem"]["kernel"]
    np.testing.assert_array_equal(first["params"]["backbone"]["stem"]["kernel"], kernel)
    assert (trained["params"]["backbone"]["stem"]["kernel"] != kernel).any()
    assert (first["batch_stats"]["backbone"]["norm"]["mean"] == 0).all()
    assert (trained["batch_stats"]["backbone"]["norm"]["mean"] != 0).any()
    assert run.config.model.custom.endswith(":Small")
    model = run.load()
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    assert model.predict(image).shape == (1, CLASSES)
    assert model.export("stablehlo", tmp_path / "out").is_file()
    with pytest.raises(ValueError, match="embed needs an EfficientNet"):
        model.embed(image)
    with pytest.raises(ValueError, match="evidence maps need an EfficientNet"):
        model.explain(image, model.classes[0])
    with pytest.raises(ValueError, match="keras is for EfficientNets"):
        model.export("keras", tmp_path / "keras")


def test_a_network_without_statistics_starts_from_given_variables(config, tmp_path):
    class Dense(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x, train: bool):
            return nn.Dense(self.num_classes, name="head")(nn.Dense(4, name="stem")(x.mean((1, 2))))

    config.model = ml.Model(weights="", image_size=SIZE)
    given = Dense(2).init(jax.random.key(7), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    run = ml.train(config, tmp_path / "run", network=Dense, variables=given)
    first = jax.device_get(load_trained_model(run.workdir, "2").variables)
    np.testing.assert_array_equal(
        first["params"]["backbone"]["stem"]["kernel"], given["params"]["stem"]["kernel"]
    )
    with pytest.raises(ValueError, match="none fits the network; it has params/"):
        ml.train(config, tmp_path / "other", network=Dense, variables=given["params"])


def test_a_network_without_a_head_is_refused(config, tmp_path):
    class Headless(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x, train: bool):
            return nn.Dense(self.num_classes, name="classifier")(x.mean((1, 2)))

    config.model = ml.Model(weights="", image_size=SIZE)
    with pytest.raises(ValueError, match="none of its parameters is named head, only classifier"):
        ml.train(config, tmp_path / "run", network=Headless)


def test_fields_by_section_name_and_path():
    data = ml.Data(csv="labels.csv", images="photos")
    config = ml.config("lite0", data=data, seed=3, **{"phases[1].duration": "5 epochs"})
    assert config.model.variant == "lite0"
    assert (config.data.csv, config.seed, config.phases[1].duration) == (
        "labels.csv",
        3,
        "5 epochs",
    )
    named = ml.config("lite0")
    assert config.data.batch_size == named.data.batch_size != ml.Data().batch_size
    assert ml.config("lite0", model=ml.Model(variant="b5")).model.variant == "b5"
    frame = pd.DataFrame({"filename": ["a.jpg"], "cat": [1]})
    assert ml.config("b5", data=ml.Data(csv=frame)).data.csv is frame
    assert ml.config("b5", model={"image_size": 96}).model.image_size == 96


def test_short_names_paths_of_any_type_and_none():
    config = ml.config("lite0", csv=Path("a.csv"), batch_size=8, epochs=5, lr=1e-3)
    assert (config.data.csv, config.data.batch_size) == ("a.csv", 8)
    assert config.phases[1].duration == "5 epochs"
    assert max(group.learning_rate for group in config.phases[1].groups) == 1e-3
    fields = {"model.dropout": None, "augment.flip": False, "data.images": Path("photos")}
    config = ml.config("lite0", **fields)
    assert (config.model.dropout, config.augment.symmetry) == (None, "none")
    assert config.data.images == "photos"


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        (["b55"], {}, "the nearest is b5"),
        (["efficientnet_b0"], {}, "the nearest is b0"),
        (["b5"], {"num_epochs": 3}, "no such field"),
        (["b5"], {"seed": "x"}, "seed"),
        (
            ["b5"],
            {"data": "labels.csv"},
            r"data is a str; pass mlcls_jax\.Data",
        ),
        (["b5"], {"data": {"cvs": "labels.csv"}}, r"data is a dict; pass mlcls_jax\.Data"),
        (["b5"], {"model": ml.Data()}, r"model is a Data; pass mlcls_jax\.Model"),
    ],
)
def test_wrong_fields_are_one_line_without_options(arguments, fields, message):
    with pytest.raises(ValueError, match=message) as info:
        ml.config(*arguments, **fields)
    assert "\n" not in str(info.value)
    assert "--config." not in str(info.value)


def test_wrong_arguments_of_train_are_named(config, tmp_path):
    wrong = [
        ({"loss": 3}, "loss is a int; pass a function"),
        ({"network": "resnet"}, "must be written"),
        ({"metrics": [len]}, "metrics is a list"),
        ({"metrics": {"mAP": len}}, "'mAP' is a metric of the trainer"),
        ({"variables": {}}, "pass network as well"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            ml.train(config, tmp_path / "run", **arguments)
    with pytest.raises(ValueError, match="config is a str"):
        ml.train("lite0", tmp_path / "run")  # type: ignore


def test_a_metric_that_fails_is_a_warning(config, tmp_path, capsys):
    run = ml.train(config, tmp_path / "run", metrics={"broken": lambda labels, scores: 1 / 0})
    assert run.is_finished and run.history["val.broken"].isna().all()
    output = capsys.readouterr()
    assert "metric 'broken' failed (ZeroDivisionError" in output.out + output.err


def test_labels_of_bools_with_a_named_index(config, photos, tmp_path):
    frame = pd.read_csv(photos / "labels.csv").set_index("filename").astype(bool)
    config.data.csv = frame
    run = ml.train(config, tmp_path / "run")
    assert pd.read_csv(run.config.data.csv).equals(pd.read_csv(photos / "labels.csv"))
