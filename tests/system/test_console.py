"""Text is printed as it is, and terminal commands in it are escaped."""

import argparse
import io
import sys

import pytest

from mlcls_jax import cli
from mlcls_jax.config.options import Parser
from mlcls_jax.system import command_line
from mlcls_jax.system import console as console_module
from mlcls_jax.system.console import (
    Meter,
    console,
    escaped,
    format_bytes,
    format_ms,
    one_line,
    print_table,
    print_warning,
    progress_bar,
)

# Clears the screen, sets the title, rings, turns the direction, ends the line, is not UTF-8.
HOSTILE = "a\x1b[2J\x1b]0;t\x07\r\x9b1m\u202egpj\u2066\u2028\x7f\udcff\nb"


def is_escaped(text: str) -> bool:
    """Returns whether the text holds no terminal command except line ends."""
    return escaped(text.replace("\n", "")) == text.replace("\n", "")


def test_brackets_are_not_markup():
    with console.capture() as capture:
        print_table("[t]", ["[bold]group", "n"], [["[a-h]ead/.*", "[/x]"]])
        print_warning("class cat [indoor]")
    text = capture.get()
    for shown in ("[t]", "[bold]group", "[a-h]ead/.*", "[/x]", "warning: class cat [indoor]"):
        assert shown in text


def test_terminal_commands_are_escaped():
    assert escaped("a\x1b[2J\n\t\u202e\udcff\x9b") == r"a\x1b[2J\n\t\u202e\udcff\x9b"
    for name in ("Vögel", "猫", "שלום", "नमस्ते", "👩‍👩‍👧", r"C:\new", "[red]", ""):
        assert escaped(name) == name
    assert is_escaped(escaped(HOSTILE)) and "\n" not in escaped(HOSTILE)


def test_all_printed_text_is_escaped():
    with console.capture() as capture:
        console.print(HOSTILE)
        print_table(HOSTILE, [HOSTILE], [[HOSTILE]])
        print_warning(HOSTILE)
    text = capture.get()
    assert is_escaped(text) and text.count(r"\x1b[2J") == 5
    assert text.count("\n") == 2 + 6 + 1  # console.print keeps the line end of the text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_wraps_text_between_words_and_keeps_commands_whole(is_terminal):
    file = io.StringIO()
    shown = console_module._Console(
        force_terminal=is_terminal, width=20, file=file, highlight=False
    )
    shown.print("3 of 25 classes have no positive label")
    assert file.getvalue().count("\n") == (2 if is_terminal else 1)
    if is_terminal:
        assert file.getvalue().splitlines() == ["3 of 25 classes have", "no positive label"]
    shown.print("next: mlcls-jax evaluate --workdir runs/mine")
    assert file.getvalue().endswith("\nnext: mlcls-jax evaluate --workdir runs/mine\n")


def test_columns_of_numbers_are_right_aligned():
    with console.capture() as capture:
        rows = [["cat", "0.9", "at 0.5"], ["zebra", "–", "tuned"], ["a", "10", ""]]
        print_table("", ["class", "AP", "threshold"], rows)
    lines = capture.get().splitlines()[3:6]
    assert [line.split("│")[2:4] for line in lines] == [
        [" 0.9 ", " at 0.5    "],
        ["   – ", " tuned     "],
        ["  10 ", "           "],
    ]


def test_the_title_of_a_progress_bar_is_escaped(monkeypatch):
    shown = console_module._Console(force_terminal=True, markup=False)
    monkeypatch.setattr(console_module, "console", shown)
    with shown.capture() as capture, progress_bar(HOSTILE, Meter(1, 1)) as refresh:
        refresh()
    assert escaped(HOSTILE)[:20] in capture.get() and "\x1b[2J" not in capture.get()


def test_an_error_is_one_line_of_bounded_length(monkeypatch, capsys):
    def main(argv):
        raise ValueError(HOSTILE + 10_000 * "x" + "end")

    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(cli, "_quiet_threads", lambda: None)
    with pytest.raises(SystemExit):
        cli.run(main)
    line = capsys.readouterr().err
    assert line.endswith("end\n") and is_escaped(line)
    assert line.count("\n") == 1 and len(line) < 1.1 * command_line.LONGEST


def test_an_unknown_option_in_an_error_is_escaped(capsys):
    parser = Parser()
    assert isinstance(parser, argparse.ArgumentParser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--no\x1b[2J"])
    assert r"\x1b[2J" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 kB"), (3900, "3.9 kB"), (1e6, "1.0 MB"), (2.25e9, "2.2 GB")]
)
def test_sizes_have_the_largest_unit_that_fits(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.001, "1"), (0.0589, "58.9"), (0.123456, "123.5"), (12.3456, "12346")]
)
def test_milliseconds_have_four_digits_and_no_exponent(seconds, text):
    assert format_ms(seconds) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b\tc"), "a b c"),
        (KeyError("name"), "name"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("0123456789abc"), "0123456789ab"),
    ],
)
def test_one_line_joins_lines_and_truncates(error, text):
    assert one_line(error, limit=12) == text
