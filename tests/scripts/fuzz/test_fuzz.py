"""The fuzzer finds planted failures, and a few inputs for each target are tried."""

import random
import sys
from pathlib import Path

import fuzz
import fuzz_work
import planted
import pytest
from fuzz_files import read_image, weight_files
from fuzz_inputs import changed, damaged, sound_files
from fuzz_targets import TARGETS
from fuzz_work import Limits, Target
from hypothesis import HealthCheck, given, settings

from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.models.weights.formats import read_tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # as in the processes, where damage causes warnings
    pytest.mark.skipif(sys.platform != "linux", reason="limits and signals of Linux"),
]
QUICK = Limits(seconds=0.3, stuck=2 * fuzz.POLL)


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_are_accepted_or_refused_in_a_line(name, tmp_path_factory, monkeypatch):
    accepted = 0

    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS[name].inputs())
    def check(value):
        nonlocal accepted
        place = tmp_path_factory.mktemp("place")
        monkeypatch.chdir(place)
        try:
            TARGETS[name].exercise(value, place)
            accepted += 1
        except (ValueError, OSError) as error:
            assert not fuzz_work.unfit_reason(error)

    check()
    assert accepted  # otherwise no code after the first check is reached


def test_sound_files_are_accepted(tmp_path):
    for name, contents in sound_files().items():
        for end in (b"", b"\0"):  # the parity of the length selects the augmentation
            try:
                read_image(contents + end, tmp_path)
            except ImageError as error:
                pytest.fail(f"{name}: {error}")
    for name, contents in weight_files().items():
        (tmp_path / name).write_bytes(contents)
        if name in ("a.h5", "b.safetensors", "0.pth", "1.pth"):
            assert len(read_tensors(tmp_path / name)) >= 3


def test_an_input_depends_on_its_number_only():
    files = list(sound_files().values())
    inputs = [damaged(number, files) for number in range(50)]
    assert inputs == [damaged(number, files) for number in range(50)]
    assert len({*inputs, *files}) > 75


def test_json_is_changed_at_any_depth_and_only_in_the_copy():
    value = {"a": [1, {"b": 2}], "c": {"d": 3}}
    results = [changed(value, random.Random(number)) for number in range(200)]
    assert value == {"a": [1, {"b": 2}], "c": {"d": 3}}
    assert any(r != value and isinstance(r, dict) and r.get("c") == {"d": 3} for r in results)
    assert any(isinstance(r, dict) and r.get("a") == value["a"] for r in results)


def run(inputs, out: Path) -> fuzz.Fuzz:
    """Runs one batch."""
    return fuzz.run(Target("planted", inputs, planted.fail), 0, 5, out, 1, QUICK)


def read_failure(line: str) -> tuple[str, str]:
    """Returns the input of a failure, and the reason."""
    path, _, reason = line.partition(": ")
    return Path(path).read_text().strip("'"), reason


def test_failures_are_found_and_the_other_inputs_run(tmp_path, capsys):
    result = run(planted.planted, tmp_path)
    assert capsys.readouterr().out.splitlines() == result.failures
    found = dict(map(read_failure, result.failures))
    assert found.keys() == planted.FOUND.keys() - set(planted.FATAL)
    assert all(reason.startswith(planted.FOUND[name]) for name, reason in found.items())
    assert (result.accepted, result.refused) == (1, 1)
    assert not list(tmp_path.parent.glob("elsewhere"))


@pytest.mark.parametrize("name", planted.FATAL)
def test_the_end_of_a_process_is_a_failure(tmp_path, name):
    result = run(getattr(planted, name), tmp_path)
    ((value, reason),) = map(read_failure, result.failures)
    assert value == name and reason.startswith(planted.FOUND[name])


def test_the_command_prints_its_counts(tmp_path, capsys, monkeypatch):
    found = fuzz.Fuzz("csv", lambda: None, QUICK, 0, tmp_path, accepted=1, failures=["it crashes"])
    monkeypatch.setattr(fuzz, "run", lambda *_: found)
    assert fuzz.main(["--targets", "csv,weights"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        *["csv: 2 inputs, 1 accepted, 0 refused, 1 failures"] * 2,
        "total: 4 inputs, 2 failures (seed 0)",
    ]
    found.failures.clear()
    assert fuzz.main(["--targets", "csv"]) == 0
    with pytest.raises(SystemExit):
        fuzz.main(["--targets", "nothing"])
