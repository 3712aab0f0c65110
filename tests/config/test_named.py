"""The packaged configs, found in a checkout and in an installed wheel."""

from pathlib import Path

import pytest

from mlcls_jax.config import named

CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_checkout_has_the_configs_at_its_top():
    assert named.config_folder() == CONFIGS
    assert named.config_names() == sorted(path.stem for path in CONFIGS.glob("*.py"))
    assert {"b5", "lite0", "demo", "default"} <= set(named.config_names())


def test_an_installed_package_has_the_configs_inside(tmp_path, monkeypatch):
    for folder in (tmp_path / "configs", tmp_path / "mlcls_jax" / "configs"):
        folder.mkdir(parents=True)
        (folder / "default.py").touch()
    monkeypatch.setattr(named, "PACKAGE", tmp_path / "mlcls_jax")
    assert named.config_folder() == tmp_path / "mlcls_jax" / "configs"
    assert named.config_names() == ["default"]


def test_an_installation_without_configs_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(named, "PACKAGE", tmp_path / "mlcls_jax")
    with pytest.raises(FileNotFoundError, match="install mlcls_jax again"):
        named.config_folder()
