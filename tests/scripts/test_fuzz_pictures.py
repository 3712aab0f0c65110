"""The fuzzer finds what it is for: exceptions, crashes, hangs and gigabytes, planted here."""

import os
import signal
import time

import fuzz_pictures
import pytest
from fuzz_inputs import damaged_file, sound_files

from mlcls_jax.data.decoding import PictureError

QUICK = fuzz_pictures.Limits(seconds=0.3, stuck=2 * fuzz_pictures.POLL)


def test_sound_files_are_decoded():
    for name, contents in sound_files().items():
        for number in range(2):
            try:
                fuzz_pictures.exercise(contents, number)
            except PictureError as error:
                pytest.fail(f"{name}: {error}")


def test_an_input_is_a_function_of_its_number():
    inputs = [damaged_file(1, number) for number in range(50)]
    assert inputs == [damaged_file(1, number) for number in range(50)]
    assert len({*inputs, *sound_files().values()}) > 75


def test_a_few_seconds_find_nothing(tmp_path):
    fuzz = fuzz_pictures.run(0.03, 0, tmp_path, workers=1)
    assert not fuzz.failures and not list(tmp_path.iterdir())
    assert fuzz.decoded > 100 and fuzz.refused > 100
    assert fuzz.decoded + fuzz.refused == fuzz.next_number


def planted(contents: bytes, number: int) -> None:
    if number == 3:
        raise RuntimeError("an exception")
    if number == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 7:
        while True:
            pass
    if number == 9:
        time.sleep(1000)
    if number == 11:
        bytearray(4 << 30)
    if number == 13:
        raise PictureError("two\nlines")
    if number % 2:
        raise PictureError("refused")


def test_planted_failures_are_found_and_the_rest_goes_on(tmp_path, capsys):
    fuzz = fuzz_pictures.run(0, 5, tmp_path, 1, planted, QUICK)
    assert capsys.readouterr().out.splitlines() == fuzz.failures
    what = {int(line.partition(".bin")[0].rpartition("_")[2]): line for line in fuzz.failures}
    assert sorted(what) == [3, 5, 7, 9, 11, 13]
    for number, words in {
        3: "RuntimeError: an exception",
        5: "crashes (SIGSEGV)",
        7: "hangs, computing",
        9: "hangs, waiting",
        11: "MemoryError",
        13: "no line for a user",
    }.items():
        assert words in what[number]
        assert (tmp_path / f"5_{number}.bin").read_bytes() == damaged_file(5, number)
    assert fuzz.decoded + fuzz.refused + len(fuzz.failures) == fuzz.next_number


def test_the_command_says_what_it_did(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fuzz_pictures, "BATCH", 20)
    where = ["--workers", "1", "--minutes", "0", "--out", str(tmp_path)]
    assert fuzz_pictures.main(where) == 0
    assert "20 inputs" in capsys.readouterr().out
    found = fuzz_pictures.Fuzz(lambda: None, QUICK, 0, tmp_path, decoded=1, failures=["it crashes"])
    monkeypatch.setattr(fuzz_pictures, "run", lambda *_: found)
    assert fuzz_pictures.main(where) == 1
    assert "2 inputs, 1 pictures decoded, 0 refused, 1 failures" in capsys.readouterr().out
