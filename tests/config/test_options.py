"""Errors of the commands' options: one line, exit code 2, and the nearest option."""

import re
import shlex

import pytest

from mlcls_jax.config import Config
from mlcls_jax.config.fields import split_overrides
from mlcls_jax.config.foreign_options import advice, known_options
from mlcls_jax.config.options import Parser


def parser(*options: str) -> Parser:
    result = Parser(prog="command", allow_abbrev=False)
    for option in options:
        result.add_argument(option)
    return result


def error_of(capsys, command: Parser, *argv: str) -> str:
    with pytest.raises(SystemExit) as info:
        command.parse_args(argv)
    assert info.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


TRAIN = ("--config", "--workdir", "--lr", "--epochs", "--batch-size", "--csv", "--images")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--learning-rate", "0.1"],
            "--learning-rate is not an option; write --lr 0.1",
        ),
        (["--batch_size=8"], "write --batch-size"),
        (["-b", "8"], "write --batch-size 8"),
        (["--num_classes", "80"], "the classes are the columns of your CSV"),
        (["--model", "efficientnet_b0"], "write --config b0"),
        (["--model", "EfficientNetV2S"], "write --config v2s"),
        (["--model", "tf_efficientnet_lite0.in1k"], "write --config lite0"),
        (["--arch=resnet50"], "the models are EfficientNets: --config b0, b1"),
        (["--model"], "write --config b0, or another"),
        (["--val-split", "0.2"], "write --config.data.val_fraction=0.2"),
        (["--val_fraction", "0.2"], "write --config.data.val_fraction=0.2"),
        (["--optimizer", "sgd"], "write '--config.phases[1].optimizer=sgd'"),
        (["--warmup-epochs", "2"], "write '--config.phases[1].warmup=2 epochs'"),
        (["--learning-rat", "1"], "did you mean --learning_rate? Then write --lr 1"),
        (["--workdirr", "x"], "did you mean --workdir?"),
        (["--label-smothing", "0.1"], "did you mean --config.loss.label_smoothing=0.1?"),
        (
            ["--opt=sgd", "--amp", "--epoch", "3"],
            "--opt is not an option; write '--config.phases[1].optimizer=sgd'; --amp is not an "
            "option; leave it out",
        ),
        (["--zzzz"], "command has --config, --workdir"),
    ],
)
def test_an_unknown_option_of_training_is_answered(capsys, argv, message):
    assert message in error_of(capsys, parser(*TRAIN), *argv)


def test_a_command_without_fields_names_its_own_options(capsys):
    command = parser("--workdir", "--split")
    command.add_argument("--out", required=True)
    assert "did you mean --workdir?" in error_of(capsys, command, "--workdri", "x")
    assert "write --workdir RUN, where" in error_of(capsys, command, "--model", "x")
    assert "command has --workdir, --split" in error_of(capsys, command, "--learning-rate", "1")
    assert "command has" in error_of(capsys, command, "--config.seed=1")
    assert "are required: --out; see command --help" in error_of(capsys, command)


def test_values_numbers_and_abbreviations_are_no_unknown_options():
    command = Parser(prog="command")
    command.add_argument("--workdir")
    command.add_argument("images", nargs="*", type=str)
    options = command.parse_args(["--work", "x", "-1", "-", "--", "--strange.jpg"])
    assert options.workdir == "x" and options.images == ["-1", "-", "--strange.jpg"]


@pytest.mark.parametrize("option", known_options())
def test_every_advice_names_options_and_fields_that_exist(option):
    text = advice(option, "0.5")
    assert text
    for argument in re.findall(r"'--config[^']*'|--[\w.-]+(?:=[^\s;]*)?", text):
        [argument] = shlex.split(argument)
        if argument.startswith("--config."):
            split_overrides([argument], Config())
        else:
            options = {*TRAIN, "--resume-from", "--minutes", "--dry-run"}
            assert argument in options | {"--coordinator", "--processes", "--process"}, argument


def test_a_field_with_a_space_is_not_taken_for_a_value_of_the_option_before_it():
    command = Parser(prog="command", allow_abbrev=False)
    command.add_argument("--config")
    command.add_argument("--epochs", nargs="+", type=float)
    fields = ["--config.data.csv=my labels.csv", "--config.phases[0].duration", "2 steps"]
    options, rest = command.parse_known_args(["--epochs", "3", "4", *fields])
    assert options.epochs == [3, 4] and rest == fields
