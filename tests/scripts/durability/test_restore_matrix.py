"""The table of restores, without its runs, which take minutes."""

import numpy as np
import pytest
import restore_matrix
from restore_matrix import Result, Way, measure, table, way_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1x1", "1 device"),
        ("1x8", "8 devices"),
        ("2x1", "2 processes"),
        ("2x4", "2 processes of 4 devices"),
    ],
)
def test_a_way_in_words(text, words):
    assert str(way_of(text)) == words


def test_rows_are_ways_of_saving_and_columns_ways_of_restoring():
    ways = [Way(1, 1), Way(2, 1)]
    cells = {(a, b): (1e-8 * i, 0.5) for i, (a, b) in enumerate((a, b) for a in ways for b in ways)}
    assert table(ways, cells).splitlines() == [
        "| saved on | 1 device | 2 processes |",
        "| --- | ---: | ---: |",
        "| 1 device | 0e+00 / 5e-01 | 1e-08 / 5e-01 |",
        "| 2 processes | 2e-08 / 5e-01 | 3e-08 / 5e-01 |",
    ]


def test_probabilities_match_the_saved_and_parameters_the_uninterrupted_run(tmp_path, monkeypatch):
    """The fake run adds 1 per step, and its results are off by 0.25 on the second way."""
    ways = [Way(1, 1), Way(1, 2)]

    def run(folder, way, config, workdir):
        if not workdir.exists():
            workdir.mkdir()
            (workdir / "config.json").write_text('"4 steps"')
        steps = 4.0 if config == "short" else 8.0
        assert config == "short" or "whole" in workdir.name or "8" in open_config(workdir)
        off = 0.25 if way.devices == 2 else 0.0
        return Result(np.array([0.5 + off]), np.array([steps + off]))

    def open_config(workdir):
        return (workdir / "config.json").read_text()

    monkeypatch.setattr(restore_matrix, "run", run)
    cells = measure(tmp_path, ways)
    assert cells == {
        (ways[0], ways[0]): (0.0, 0.0),
        (ways[0], ways[1]): (0.25, 0.25),
        (ways[1], ways[0]): (0.25, 0.25),
        (ways[1], ways[1]): (0.0, 0.0),
    }
