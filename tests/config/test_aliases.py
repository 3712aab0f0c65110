"""The options that stand for fields of the config."""

import argparse

import pytest

from mlcls_jax.config import Config, Group, Phase
from mlcls_jax.config.aliases import ALIASES, DATA, add_aliases, alias_overrides
from mlcls_jax.config.loading import with_overrides


def changed(*argv: str, config: Config | None = None, overrides: tuple[str, ...] = ()) -> Config:
    parser, config = argparse.ArgumentParser(), config or Config()
    add_aliases(parser)
    options = parser.parse_args(argv)
    return with_overrides(
        config, [*overrides, *alias_overrides(options, config.phases, list(overrides))]
    )


def test_without_aliases_nothing_changes():
    assert changed() == Config()


def test_each_alias_sets_its_fields():
    config = changed(
        *("--csv", "my labels.csv", "--images", "photos", "--batch-size", "8"),
        *("--epochs", "20", "--lr", "1e-3"),
    )
    assert (config.data.csv, config.data.images) == ("my labels.csv", "photos")
    assert config.data.batch_size == 8
    assert [phase.duration for phase in config.phases] == ["6 epochs", "20 epochs"]
    rates = [[group.learning_rate for group in phase.groups] for phase in config.phases]
    assert rates == [[1e-2], [1e-3, 6e-4]]  # 5e-4 and 3e-4 before


def test_epochs_of_every_phase():
    durations = [phase.duration for phase in changed("--epochs", "1", "2.5").phases]
    assert changed("--epochs", "0", "2").phases[0].duration == "0 epochs"
    assert durations == ["1 epoch", "2.5 epochs"]
    config = Config(phases=[Phase("all", "3 epochs", [Group(".*", 1e-3)])])
    assert changed("--epochs", "7", config=config).phases[0].duration == "7 epochs"


@pytest.mark.parametrize(
    ("argv", "override", "message"),
    [
        (["--epochs", "1", "2", "3"], [], "one for each of the phases head, finetune"),
        (["--epochs", "-1"], [], "--epochs must be 0 or more"),
        (["--lr", "0"], [], "--lr must be above 0"),
        (["--lr", "nan"], [], "--lr must be above 0"),
        (["--batch-size", "0"], [], r"data\.batch_size is 0"),
        (
            ["--batch-size", "8"],
            ["--config.data.batch_size=4"],
            r"--batch-size and --config\.data\.batch_size set the same field; leave out one",
        ),
        (
            ["--lr", "1e-3"],
            ["--config.phases[1].groups[1].learning_rate=1"],
            r"--lr and --config\.phases\[1\]\.groups\[1\]\.learning_rate set the same field",
        ),
    ],
)
def test_a_wrong_value_or_a_field_set_twice_is_refused(argv, override, message):
    with pytest.raises(ValueError, match=message):
        changed(*argv, overrides=tuple(override))


def test_the_help_names_the_fields_of_every_alias(capsys):
    parser = argparse.ArgumentParser()
    add_aliases(parser)
    parser.print_help()
    text = " ".join(capsys.readouterr().out.split())
    assert all(alias.stands_for.split(":")[0] in text for alias in ALIASES)


def test_a_command_may_take_some_of_them():
    parser = argparse.ArgumentParser()
    add_aliases(parser, DATA)
    options, rest = parser.parse_known_args(["--csv", "a.csv", "--lr", "1"])
    assert rest == ["--lr", "1"]
    assert alias_overrides(options, (), []) == ["--config.data.csv=a.csv"]


def test_a_config_without_phases_is_left_to_the_check_of_the_config():
    with pytest.raises(ValueError, match=r"phases is .*; it must be a list of at least one"):
        changed("--lr", "1e-3", "--epochs", "3", config=Config(phases=[]))
