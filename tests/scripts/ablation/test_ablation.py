"""Rows are valid configs; runs are skipped, continued and compared as documented."""

import json
import math
import re
import sys

import ablation
import pytest
from ablation import Result, Study, check, markdown, measure, spread, write_results
from ablation_rows import BASELINE, ROWS, Row, choose, default_rows, overrides
from report_runs import a_record

BASE, EMA = Row(BASELINE, "baseline"), Row("smooth", "loss", {"loss.name": "asl"})
MIRROR = Row("tta-h", "evaluate", evaluate=("--tta", "h"))


@pytest.fixture
def study(tmp_path):
    config = ablation.ROOT / "configs" / "default.py"
    return Study(tmp_path / "photos" / "lite0", config, ("--config.data.csv=x.csv",), (6, 12))


class Trainer:
    """Replaces the processes: writes the metrics that a run would write, and records commands."""

    def __init__(self, *maps: float, error: Exception | None = None):
        self.maps, self.error, self.commands = maps, error, []

    def __call__(self, command, log):
        self.commands.append(command)
        if self.error:
            raise self.error
        workdir = ablation.Path(command[command.index("--workdir") + 1])
        workdir.mkdir(exist_ok=True, parents=True)
        if "mlcls_jax.evaluate" in command:
            (workdir / "eval_val.json").write_text(json.dumps({"values": {"mAP": self.maps[0]}}))
        else:
            made = [a_record(n, value) for n, value in enumerate(self.maps)]
            records = [json.dumps(record) + "\n" for record in made]
            (workdir / "metrics.jsonl").write_text("".join(records))


def test_every_row_is_a_valid_config(study):
    check(study, [row for row in ROWS if not row.evaluate])


def test_names_are_distinct_and_every_row_changes_something():
    names = [row.name for row in ROWS]
    assert len({*names, *(row.group for row in ROWS if row.name != BASELINE)}) >= len(names)
    changes = [(str(row.change), row.evaluate) for row in ROWS]
    assert len(set(names)) == len(names) == len(set(changes))


def test_an_invalid_row_is_reported_before_anything_runs(study):
    with pytest.raises(ValueError, match=r"row odd: config: seed"):
        check(study, [Row("odd", "loss", {"seed": -1})])


def test_rows_are_chosen_by_name_and_group_with_the_baseline():
    assert [row.name for row in choose("asl")] == [BASELINE, "asl"]
    assert {row.group for row in choose("phases")} == {"baseline", "phases"}
    assert not any(row.group == "candidates" for row in choose(default_rows()))
    with pytest.raises(ValueError, match=r"--rows nothing: no such row .* loss: pos-weight, "):
        choose("nothing")


def test_frozen_staged_and_full_take_equally_many_epochs():
    for name in (BASELINE, "frozen", "full"):
        (row,) = (row for row in ROWS if row.name == name)
        durations = [
            int(re.search(r"duration=(\d+)", argument).group(1))
            for argument in overrides(row, 42, (6, 12))
            if "duration" in argument
        ]
        assert sum(durations) == 18


def test_the_seed_also_splits_the_images():
    arguments = overrides(BASE, 43, (6, 12))
    assert {"--config.seed=43", "--config.data.split_seed=43"} <= {*arguments}


def test_a_finished_run_is_not_run_again(study):
    trainer = Trainer(0.5, 0.75, 0.625)
    first = measure(study, EMA, 42, trainer)
    assert (first.end, first.best) == (0.625, 0.75)
    assert measure(study, EMA, 42, Trainer(error=AssertionError())) == first
    (command,) = trainer.commands
    assert command[:3] == [sys.executable, "-m", "mlcls_jax.train"]
    assert "--config.loss.name=asl" in command and "--config.data.csv=x.csv" in command
    assert command[-1] == str(study.folder / "smooth" / "42")


def test_an_interrupted_run_continues_and_its_minutes_count(study):
    with pytest.raises(KeyboardInterrupt):
        measure(study, EMA, 42, Trainer(error=KeyboardInterrupt()))
    stored = study.folder / "smooth" / "42.json"
    state = json.loads(stored.read_text())
    assert "end" not in state
    stored.write_text(json.dumps(state | {"minutes": 10.0}))
    result = measure(study, EMA, 42, Trainer(0.5))
    assert result.end == 0.5 and 10 < result.minutes < 11


def test_a_stored_result_with_other_settings_is_refused(study):
    measure(study, EMA, 42, Trainer(0.5))
    other = Row("smooth", "loss", {"loss.name": "focal"})
    with pytest.raises(ValueError, match=r"has other settings .*asl.*focal.*; remove it"):
        measure(study, other, 42, Trainer(0.5))


def test_an_evaluation_row_evaluates_the_baselines_run(study):
    trainer = Trainer(0.7)
    measure(study, MIRROR, 42, trainer)
    assert [command[-1] for command in trainer.commands] == ["latest", "best"]
    for command in trainer.commands:
        assert command[4:7] == [str(study.folder / BASELINE / "42"), "--tta", "h"]


def test_a_failing_command_is_reported_with_its_last_line(tmp_path):
    program = "import sys; print('error: no such thing\\n'); sys.exit(2)"
    with pytest.raises(ValueError, match="ended with 2: error: no such thing"):
        ablation.call([sys.executable, "-c", program], tmp_path / "log")


def test_the_table_pairs_by_seed():
    results = [
        Result(BASELINE, 1, 0.5, 0.6, 2.0),
        Result(BASELINE, 2, 0.7, 0.7, 4.0),
        Result("smooth", 2, 0.8, 0.8, 3.0),
        Result("smooth", 1, 0.6, 0.6, 3.0),
    ]
    lines = markdown(results, [BASELINE, "smooth"]).splitlines()
    deviation = f"{math.sqrt(2 * 0.1**2):.4f}"
    assert lines[2] == f"| baseline | 0.6000 ± {deviation} |  | 0.6500 ± 0.0707 |  | 3.0 | 2 |"
    assert lines[3].startswith(f"| smooth | 0.7000 ± {deviation} | +0.1000 ± 0.0000 | 0.7000 ± ")
    assert spread([0.5]) == "0.5000"


def test_results_of_several_studies_share_a_file(study, tmp_path):
    path = tmp_path / "results.json"
    write_results(path, study, [Result(BASELINE, 1, 0.5, 0.6, 2.0)])
    other = Study(tmp_path / "photos" / "b0", study.config, (), (6, 12))
    write_results(path, other, [Result(BASELINE, 1, 0.7, 0.7, 2.0)])
    written = json.loads(path.read_text())
    assert written["photos/lite0"][BASELINE]["1"] == {"end": 0.5, "best": 0.6, "minutes": 2.0}
    assert written["photos/b0"][BASELINE]["1"]["end"] == 0.7
