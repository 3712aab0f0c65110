"""Overrides by path: a wrong field or index is answered with the nearest there is."""

import pytest

from mlcls_jax.config import Config
from mlcls_jax.config.fields import paths_named, split_overrides


def test_a_value_may_be_an_argument_of_its_own():
    given = ["--config.data.csv", "my labels.csv", "--config.augment.flip", "--config.seed=3"]
    given += ["--noconfig.model.remat"]
    expected = ["data.csv=my labels.csv", "augment.symmetry=h", "seed=3", "model.remat=false"]
    assert split_overrides(given, Config()) == [f"--config.{text}" for text in expected]


@pytest.mark.parametrize(
    ("given", "symmetry"),
    [
        (["--config.augment.flip=false"], "none"),
        (["--config.augment.flip", "False"], "none"),
        (["--config.augment.flip=0"], "none"),
        (["--noconfig.augment.flip"], "none"),
        (["--config.augment.flip=true"], "h"),
        (["--config.augment.flip"], "h"),
    ],
)
def test_a_former_field_is_understood(given, symmetry):
    assert split_overrides(given, Config()) == [f"--config.augment.symmetry={symmetry}"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.batch_size=8", "no such field; write --config.data.batch_size=8"),
        ("--config.data.batchsize=8", "did you mean --config.data.batch_size=8?"),
        ("--config.sede=8", "did you mean --config.seed=8?"),
        ("--config.img_size=8", "write --config.model.image_size=8"),
        ("--config.train.lr=1e-3", "write --lr 1e-3"),
        ("--config.learning_rate=1", r"write '--config.phases[1].groups[0].learning_rate=1' or"),
        ("--config.phases[1].duraton=1", "did you mean '--config.phases[1].duration=1'?"),
        ("--config.phases[5].duration=1", "there is no phases[5]; there are phases[0] (head) and"),
        ("--config.phases[-1].duration=1", "phases[0] (head) and phases[1] (finetune)"),
        ("--config.phases[finetune].duration=1", "there is no phases[finetune]; there are"),
        ("--config.phases.1.duration=1", "there are phases[0] (head) and phases[1] (finetune)"),
        ("--config.phases[1].groups[2].pattern=x", "phases[1].groups[1] (backbone/.*)"),
        ("--config.phases=x", "set one of their fields"),
        ("--config.data=x", "data is a section; set one of its fields source, csv"),
        ("--config.data.csv.x=x", "no such field"),
        ("--config.seed[0]=x", "there is no seed[0]"),
        (
            "--config.augment.flip=maybe",
            "no such field; write --config.augment.symmetry=h or --config.augment.symmetry=none",
        ),
        ("--config.vflip=1", "write --config.augment.symmetry=hv"),
        ("--config.=x", "the config has seed, recipe"),
        ("--config.data.csv", "needs a value, as in --config.data.csv=VALUE"),
        ("labels.csv", "labels are named with --csv labels.csv"),
        (".", "a folder of images is named with --images ."),
        ("b5", "a config is named with --config b5"),
        ("stray", "'stray' is not an option; a field of the config is set with --config.FIELD="),
    ],
)
def test_a_wrong_field_is_answered_in_one_line(override, message):
    with pytest.raises(ValueError) as info:
        split_overrides([override], Config())
    assert message in str(info.value) and "\n" not in str(info.value)


def test_fields_of_phases_are_those_of_the_last_one():
    assert paths_named(Config(), "optimizer") == ["phases[1].optimizer"]
    assert paths_named(Config(), "name") == ["loss.name"]
    assert paths_named(Config(), "nothing") == []
