"""How a run is found by its path, and which command starts a new run from it."""

from pathlib import Path

import pytest

from mlcls_jax.config import Group, Phase
from mlcls_jax.run.stored_config import find_run, new_run


def phases(*durations: str) -> list[Phase]:
    return [Phase(f"p{i}", text, [Group(".*", 1.0)]) for i, text in enumerate(durations)]


@pytest.mark.parametrize(
    ("durations", "option"),
    [
        ((), ""),
        (("6 epochs", "12 epochs"), " --epochs 0 12"),
        (("1 epoch", "0 steps"), " --epochs 1 0"),
        (("2.5 epochs",), " --epochs 2.5"),
        (("1 epoch", "300 steps"), ""),
        (("0 steps",), ""),
    ],
)
def test_the_command_of_a_new_run_trains_the_last_phase(durations, option):
    text = new_run(Path("runs/mine"), phases(*durations))
    assert text.endswith(f"--resume-from runs/mine --workdir runs/mine-2{option}")
    assert text.startswith("for more epochs, ") == bool(durations)


def test_a_run_is_found_by_its_folder_or_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("imagenet")  # also a name of weights
    (folder / "checkpoints" / "7").mkdir(parents=True)
    assert find_run(f"./{folder}") is None  # without config.json
    (folder / "config.json").write_text("{}")
    assert find_run("imagenet") is None
    assert find_run("") is None
    assert find_run(str(folder.absolute())) == (folder.absolute(), "best")
    assert find_run("./imagenet/checkpoints/7") == (folder, "7")
    assert find_run("./imagenet/checkpoints/seven") is None
