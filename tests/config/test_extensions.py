"""Names of the user's functions: found in this process, imported, or refused in one line."""

import sys

import pytest

from mlcls_jax.config import Model, Phase, default_phases
from mlcls_jax.config.extensions import fields_of_extensions, register, resolve


def double(x):
    return 2 * x


def test_a_registered_object_is_found_by_its_name():
    name = register(double)
    assert name.endswith("test_extensions:double")
    assert resolve(name, "loss.custom") is double
    local = register(lambda: 3)
    assert "<lambda>" in local
    assert resolve(local, "loss.custom")() == 3

    class Called:
        def __call__(self):
            return 4

    assert resolve(register(Called()), "loss.custom")() == 4


def test_a_module_in_the_current_folder_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_own_losses.py").write_text("class A:\n    def f(): return 5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert resolve("my_own_losses:A.f", "loss.custom")() == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hinge", "loss.custom is 'hinge'; it must be written \"module:function\""),
        (":hinge", "must be written"),
        ("no_such_module:hinge", "cannot be imported .*No module named 'no_such_module'"),
        ("math:hinge", "cannot be imported .*no attribute 'hinge'"),
        ("__main__:hinge", "only the program that defines it has"),
        ("a:f.<locals>.g", "only the program that defines it has"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        resolve(name, "loss.custom")


def test_fields_that_own_batches_and_networks_decide():
    phases = default_phases()
    assert fields_of_extensions(Model(), phases, own_batches=False) == {}
    views = {"phases[0].cached_views": 0}
    assert fields_of_extensions(Model(), phases, own_batches=True) == views
    own = Model(custom="my_networks:vit")
    assert fields_of_extensions(own, phases, False) == views | {"model.weights": ""}
    chosen = Model(custom="my_networks:vit", weights="runs/mine")
    assert fields_of_extensions(chosen, [Phase("a", "1 step", [])], False) == {}
