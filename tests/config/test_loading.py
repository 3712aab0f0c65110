"""Configs by name, and former names of fields, which are refused with the present name."""

import json

import pytest

from mlcls_jax.config import Config
from mlcls_jax.config.loading import find_config, load_config, with_overrides
from mlcls_jax.config.serialization import from_dict

FILE = """from mlcls_jax.config import Config, Evaluation

def get_config():
    return Config(evaluation=Evaluation({arguments}))
"""


@pytest.mark.parametrize(
    ("former", "value", "present"),
    [
        ("thresholds", "f1", "threshold_criterion"),
        ("wanted", 0.5, "threshold_target"),
        ("tuned_positives", 3, "min_positives_to_tune"),
    ],
)
def test_a_former_name_is_refused_with_the_present_one(tmp_path, former, value, present):
    hint = rf"evaluation\.{former} is now evaluation\.{present}"
    file = tmp_path / "config.py"
    file.write_text(FILE.format(arguments=""))
    with pytest.raises(ValueError, match=hint):
        load_config(str(file), [f"--config.evaluation.{former}={value}"])
    file.write_text(FILE.format(arguments=f"{former}={value!r}"))
    with pytest.raises(ValueError, match=rf"config\.py line 4: TypeError: .*{hint}") as error:
        load_config(str(file), [])
    assert "Traceback" not in str(error.value)
    with pytest.raises(ValueError, match=hint):
        from_dict(json.loads(json.dumps({"evaluation": {former: value}})))


def test_a_stored_config_of_an_earlier_version_is_understood(tmp_path):
    for flip, symmetry in ((True, "h"), (False, "none")):
        config = from_dict(json.loads(json.dumps({"augment": {"flip": flip, "hue": 0.1}})))
        assert (config.augment.symmetry, config.augment.hue) == (symmetry, 0.1)
    assert from_dict({"augment": {"mixup": None}}).augment.mixup == 0.0
    for augment in ({"flip": True, "symmetry": "d4"}, {"flip": "yes"}):
        with pytest.raises(ValueError, match=r"augment\.flip is now augment\.symmetry"):
            from_dict({"augment": augment})
    file = tmp_path / "config.py"
    file.write_text(FILE.format(arguments="").replace("evaluation=Evaluation", "augment=Augment"))
    text = file.read_text().replace("Evaluation", "Augment").replace("()", "(flip=False)")
    file.write_text(text.replace("get_config(flip=False)", "get_config()"))
    with pytest.raises(ValueError, match=r"augment\.flip is now augment\.symmetry"):
        load_config(str(file), [])


def test_a_config_is_found_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("lite0", []).model.variant == "lite0"
    assert load_config("configs/b5.py", ["--config.seed=3"]).model.variant == "b5"
    own = tmp_path / "my.py"
    own.write_text(FILE.format(arguments="min_positives=7"))
    assert load_config("my.py", []).evaluation.min_positives == 7
    (tmp_path / "b5.py").write_text(own.read_text())
    assert find_config("b5.py") == "b5.py"  # a file comes before a name
    assert find_config("b5").endswith("configs/b5.py")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b9", "--config b9: no such file, and no config has this name; the nearest is b"),
        ("lite", "the nearest is lite0"),
        ("tf_efficientnet_b4", "the nearest is b4"),
        ("lite_0", "the nearest is lite0; names are b0, b1"),
        ("configs/b55.py", "the nearest is b5"),
        ("mi.py", "the nearest is my.py"),
        ("somewhere/b5.py", "no such file"),
        ("xyzzy", "no config has this name; names are b0"),
    ],
)
def test_an_unknown_config_names_the_nearest(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text("")
    with pytest.raises(ValueError, match=message.replace(".", r"\.")) as info:
        load_config(name, [])
    assert "\n" not in str(info.value)


def test_overrides_of_a_given_config_leave_it_as_it_is():
    base = Config(seed=4)
    changed = with_overrides(
        base, ["--config.augment.mixup=0.3", "--config.model.dropout", "0.1", "--config.seed=5"]
    )
    assert (changed.augment.mixup, changed.model.dropout, changed.seed) == (0.3, 0.1, 5)
    assert base == Config(seed=4)
