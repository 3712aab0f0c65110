"""Text targets of fuzz.py: label CSVs, config overrides and arguments of `predict`."""

import csv
import io
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from fuzz_inputs import ODD, ODD_TEXT, damaged, sound_files
from hypothesis import strategies as st

from mlcls_jax import cli, predict
from mlcls_jax.config import Config, Data
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.saved_splits import read_splits, write_splits
from mlcls_jax.data.splits import make_splits
from mlcls_jax.evaluation.decision_rule import untuned_rule
from mlcls_jax.run.trained_model import write_predictions
from mlcls_jax.system.console import escaped

DEFAULT = str(Path(__file__).resolve().parents[2] / "configs" / "default.py")
TEXT = st.one_of(st.sampled_from(ODD_TEXT), st.text(max_size=8))
NAMES = ("a.jpg", "b.jpg", "=c.jpg", "d\re.jpg", "f\ng.jpg", "sub/h.jpg", "'i.jpg", "j,k.jpg", "-l")
CELLS = ("1", "0", "-1", "", "1.0", " 1 ", "train", "val", "test", "2", "1e0", "NA", "\0", '"', "'")
CELLS = (*CELLS, "True", "no", "[1]", "['cow']", "[", "nan", "+1", "photos/a.jpg", "A.JPG", "h")


def _mostly(usual: st.SearchStrategy, odd: st.SearchStrategy, times: int = 30) -> st.SearchStrategy:
    """Like `one_of` with weights: `times` usual values to one odd value."""
    return st.integers(0, times).flatmap(lambda n: odd if n == times // 2 else usual)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def csvs() -> st.SearchStrategy:
    """Returns a strategy for mostly valid label CSVs with odd names, cells, line ends and bytes."""
    known: st.SearchStrategy = st.sampled_from(["dog", "cat", "=cow", "-", "Vögel", "split"])
    column = _mostly(known, TEXT)
    name = _mostly(st.sampled_from(NAMES), TEXT)
    layout = st.tuples(
        st.sampled_from([",", ";", "\t", "|", " "]),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"]),
        st.just("replace"),
    )
    cell = st.one_of(st.sampled_from(CELLS[:6]), st.sampled_from(CELLS), TEXT.map(_quoted))

    def table(
        columns: list[str], odd: list[str], names: list[str], end: str, layout: tuple, number: int
    ) -> bytes:
        rows = [["filename", *columns], *([name, *_labels(columns, name)] for name in names)]
        rows = [[_quoted(text) for text in row] for row in rows]
        for i, text in enumerate(odd):
            row = rows[(number + i) % len(rows)]
            row[(number // 7 + i) % len(row)] = text
        separator, encoding, errors = layout
        text = end.join(separator.join(row) for row in rows).encode(encoding, errors)
        return damaged(number, [text]) if number % 6 == 0 else text

    return st.builds(
        table,
        st.lists(column, min_size=1, max_size=4, unique=True),
        _mostly(st.just([]), st.lists(cell, max_size=2), 2),
        st.lists(name, min_size=2, max_size=8, unique=True),
        st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
        _mostly(st.just((",", "utf-8", "surrogatepass")), layout, 3),
        st.integers(1, 2**40),
    )


def _labels(columns: list[str], name: str) -> list[str]:
    values = {"split": ("train", "val")}
    return [values.get(column, "01")[(len(name) + i) % 2] for i, column in enumerate(columns)]


def read_table(contents: bytes, place: Path) -> None:
    """Reads a label CSV, splits it, and checks the files that are written from it."""
    for name in NAMES:
        path = place / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    file = place / "labels.csv"
    file.write_bytes(contents)
    table = read_labels(file, place / "photos")
    for path in table.paths:
        assert Path(path).resolve().is_relative_to(place), path
    splits = make_splits(table, val_fraction=0.5, test_fraction=0.0, seed=0)
    write_splits(place / "splits.csv", splits)
    again = read_splits(place / "splits.csv", table)
    assert {k: sorted(t.filenames) for k, t in again.items()} == {
        k: sorted(t.filenames) for k, t in splits.items()
    }
    write_predictions(place / "p.csv", table.filenames, table.labels * 0.5, table.classes)
    for file in (place / "splits.csv", place / "p.csv"):
        for separator in ",;\t":
            with open(file, encoding="utf-8", newline="") as opened:
                cells = [cell for row in csv.reader(opened, delimiter=separator) for cell in row]
            assert not any(cell.lstrip()[:1] in tuple("=+-@") for cell in cells if cell.strip())


def overrides() -> st.SearchStrategy:
    """Returns a strategy for lists of config overrides, mostly of existing fields."""
    defaults = flatten_fields(asdict(Config()))
    odd = ("phases", "phases[0].groups", "phases[9].name", "data", "__class__", "seed.x")
    field = _mostly(st.sampled_from(list(defaults)), st.one_of(st.sampled_from(odd), TEXT), 9)
    number = st.one_of(st.integers(), st.floats(), st.integers(0, 9), st.floats(0, 1)).map(str)
    other = st.sampled_from([str(value) for value in defaults.values()])
    value = st.one_of(number, number, other, st.sampled_from(ODD).map(str), TEXT)
    unchanged = st.sampled_from([f"--config.{name}={value}" for name, value in defaults.items()])
    option = st.one_of(unchanged, st.builds("--config.{}={}".format, field, value))
    return st.lists(_mostly(option, TEXT, 20), max_size=4)


def configure(options: list[str], place: Path) -> None:
    """Loads and checks the default config with the overrides."""
    load_config(DEFAULT, options)


def arguments() -> st.SearchStrategy:
    """Returns a strategy for (arguments of `predict`, number that decides its input files)."""
    names = [
        *NAMES,
        "photos",
        "photos/a.jpg",
        ".",
        "..",
        "nowhere",
        "photos/=c.jpg",
        "",
        "\udcff.jpg",
    ]
    flags = [
        "--json",
        "--tta",
        "d4",
        "--csv",
        "out.csv",
        "--labels",
        "l.csv",
        "labels.csv",
        "--threshold",
    ]
    flags += [
        "0.5",
        "nan",
        "--on-bad-image",
        "skip",
        "--checkpoint",
        "best",
        "-h",
        "--",
        "--csv=no/x",
        "2",
    ]
    word = st.one_of(st.sampled_from(names), st.sampled_from(flags), TEXT)
    skip = ["--on-bad-image", "skip"]
    start = st.sampled_from([["photos", *skip], ["photos", *skip], ["photos/a.jpg"], []])
    words = st.builds(lambda a, b: ["--workdir", "run", *a, *b], start, st.lists(word, max_size=4))
    return st.tuples(words, st.integers(0, 2**40))


CLASSES = ("dog", "\x1b[2Jcat", "=1+1", "[red]", "a\nb", "\u202e")


def run_predict(value: tuple[list[str], int], place: Path) -> None:
    """Runs `predict` with a stub model on files with odd names and damaged contents."""
    argv, number = value
    sound = list(sound_files().values())
    for i, name in enumerate((*NAMES, "\udcff.jpg", "\x1b]0;t\x07.png")):
        path = place / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(number + i, sound) if i % 2 else sound[(number + i) % len(sound)])
    (place / "labels.csv").write_text("filename,dog\n")
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        for context in (
            mock.patch.object(predict, "load_trained_model", lambda *_: _stub(place)),
            mock.patch.object(predict, "with_views", lambda run, _: run),
            mock.patch.object(predict.distributed, "start", lambda: None),
            mock.patch.object(cli, "_quiet_threads", lambda: None),
            mock.patch.object(sys, "argv", ["predict", *argv]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            stack.enter_context(context)
        try:
            cli.run(predict.main)
        except SystemExit as end:
            code = end.code
    for text in (out.getvalue(), err.getvalue()):
        plain = text.replace("\n", "")
        assert escaped(plain) == plain, f"control characters are printed: {plain!r}"
    if code == 0:
        return
    assert code == cli.USER_ERROR, f"exit code {code}"
    raise ValueError(err.getvalue().splitlines()[-1])


def _stub(place: Path) -> SimpleNamespace:
    config = Config(data=Data(csv=str(place / "labels.csv")))
    parts = {
        "network": SimpleNamespace(in_channels=3),
        "outputs": _outputs,
        "decision_rule": untuned_rule(CLASSES),
    }
    return SimpleNamespace(config=config, classes=CLASSES, metadata={}, **parts)


def _outputs(paths, reader, title):
    readable = np.ones(len(paths), bool)
    for i, path in enumerate(paths):
        try:
            open_image(read_file(path), PixelFormat(4_000_000)).decode(64, 64)
        except ImageError as error:
            reader.bad.report(path, error)
            readable[i] = False
    return np.zeros((len(paths), len(CLASSES)), np.float32), readable
