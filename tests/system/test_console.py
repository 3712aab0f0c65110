"""Names are shown as they are, and obeyed nowhere."""

import argparse
import sys

import pytest

from mlcls_jax import cli
from mlcls_jax.system import console as console_module
from mlcls_jax.system.console import (
    Meter,
    console,
    escaped,
    print_table,
    print_warning,
    progress_bar,
)

# Clears the screen, sets the title, rings, turns the direction, ends the line, is no UTF-8.
HOSTILE = "a\x1b[2J\x1b]0;t\x07\r\x9b1m\u202egpj\u2066\u2028\x7f\udcff\nb"


def is_tame(text: str) -> bool:
    """Whether a terminal finds nothing to obey but line ends."""
    return escaped(text.replace("\n", "")) == text.replace("\n", "")


def test_brackets_are_no_markup():
    with console.capture() as capture:
        print_table("[t]", ["[bold]group", "n"], [["[a-h]ead/.*", "[/x]"]])
        print_warning("class cat [indoor]")
    text = capture.get()
    for shown in ("[t]", "[bold]group", "[a-h]ead/.*", "[/x]", "warning: class cat [indoor]"):
        assert shown in text


def test_what_a_terminal_would_obey_is_shown():
    assert escaped("a\x1b[2J\n\t\u202e\udcff\x9b") == r"a\x1b[2J\n\t\u202e\udcff\x9b"
    for name in ("Vögel", "猫", "שלום", "नमस्ते", "👩‍👩‍👧", r"C:\new", "[red]", ""):
        assert escaped(name) == name
    assert is_tame(escaped(HOSTILE)) and "\n" not in escaped(HOSTILE)


def test_nothing_that_is_printed_is_obeyed():
    with console.capture() as capture:
        console.print(HOSTILE)
        print_table(HOSTILE, [HOSTILE], [[HOSTILE]])
        print_warning(HOSTILE)
    text = capture.get()
    assert is_tame(text) and text.count(r"\x1b[2J") == 5
    assert text.count("\n") == 2 + 6 + 1  # its own end only in the first, which may have lines


def test_the_title_of_a_progress_bar_is_not_obeyed(monkeypatch):
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
    assert line.endswith("end\n") and is_tame(line)
    assert line.count("\n") == 1 and len(line) < 1.1 * cli.LONGEST


def test_the_name_of_a_file_in_an_option_error_is_not_obeyed(capsys):
    parser = cli.Parser()
    assert isinstance(parser, argparse.ArgumentParser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--no\x1b[2J"])
    assert r"\x1b[2J" in capsys.readouterr().err
