"""The section log: names of loggers, fields without an effect, and packages that are absent."""

import pytest

from mlcls_jax.config import Config, Log, log_checks
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.serialization import from_dict, may_change


@pytest.mark.parametrize("value", ["wandb,tensorboard", "[wandb, tensorboard]", "wandb, wandb,"])
def test_names_are_separated_by_commas_in_brackets_or_not(value):
    config = load_config("", [f"--config.log.to={value}", "--config.log.project=cats"])
    assert log_checks.names_of(config.log.to)[0] == "wandb"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (Log(to="wandbb"), "log.to has 'wandbb'; it must be names of tensorboard, wandb, mlflow"),
        (Log(project="cats"), "log.project is 'cats', but log.to is 'tensorboard', which does not"),
        (Log(to="", run_name="a"), "log.run_name is 'a', but log.to is '', which does not use it"),
        (Log(to="wandb", project=""), "log.project is empty; name the project"),
    ],
)
def test_a_field_that_means_nothing_is_refused(log, message):
    with pytest.raises(ValueError, match=message):
        log_checks.check_log(log)


def test_an_absent_package_is_refused_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(log_checks, "find_spec", lambda name: None)
    log_checks.check_installed(Log())
    with pytest.raises(ValueError, match=r"log.to has mlflow, .*pip install 'mlcls_jax\[mlflow\]'"):
        log_checks.check_installed(Log(to="tensorboard,mlflow"))


def test_a_run_from_before_the_section_logs_to_tensorboard_and_may_change_it():
    assert from_dict({"seed": 1}).log == Config().log == Log(to="tensorboard")
    assert {"log.to", "log.project", "log.run_name"} <= may_change(Config().augment)
