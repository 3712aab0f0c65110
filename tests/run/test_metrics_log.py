"""metrics.jsonl: appended to, truncated to the restored step, and readable after a crash."""

import errno
import json
import os

import pytest

from mlcls_jax.run import metrics_log
from mlcls_jax.run.loggers.tensorboard import Events
from mlcls_jax.run.metrics_log import MetricsLog, read_metrics
from mlcls_jax.run.workdir import METRICS


def record(step: int, mean_ap: float = 0.5) -> dict:
    return {
        "step": step,
        "epoch": step / 10,
        "phase": "head",
        "train_loss": 0.25,
        "images_per_second": 9.0,
        "val": {"mAP": mean_ap, "loss": 0.5},
        "base_rate": {"mAP": 0.1, "loss": 0.6},
    }


def write(workdir, start: int, *steps: int) -> None:
    log = MetricsLog(workdir, start, enabled=True)
    for step in steps:
        log.write_epoch(record(step))
    log.close()


def steps(workdir) -> list[int]:
    return [entry["step"] for entry in read_metrics(workdir)]


def test_records_are_appended_one_a_line_and_read_back(tmp_path):
    assert read_metrics(tmp_path) == []
    write(tmp_path, 0, 10, 20)
    write(tmp_path, 20, 30)
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [record(10), record(20), record(30)]
    assert read_metrics(tmp_path) == [record(10), record(20), record(30)]


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    write(tmp_path, 0, 10, 20, 30)
    write(tmp_path, 10, 15)
    assert steps(tmp_path) == [10, 15]


def test_the_line_of_the_restored_step_stays(tmp_path):
    write(tmp_path, 0, 10, 20)
    before = (tmp_path / METRICS).read_bytes()
    write(tmp_path, 20)
    assert (tmp_path / METRICS).read_bytes() == before


def test_a_line_is_on_the_disk_when_it_is_written(tmp_path, monkeypatch):
    """Otherwise a power failure could leave a checkpoint without its line."""
    path, synced = tmp_path / METRICS, []

    def fsync(file: int) -> None:
        if os.path.samestat(os.fstat(file), path.stat()):
            synced.append(path.read_text().count("\n"))

    monkeypatch.setattr(os, "fsync", fsync)  # TensorBoard's writer calls it as well
    write(tmp_path, 0, 10, 20)
    assert synced == [1, 2]


def test_a_log_without_later_lines_is_not_written_again(tmp_path):
    write(tmp_path, 0, 10, 20)
    before = (tmp_path / METRICS).stat()
    write(tmp_path, 20)
    after = (tmp_path / METRICS).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("cut", ['{"step": 20, "val', '{"step": 20}', '{"phase": "ä"'])
def test_a_truncated_last_line_is_ignored(tmp_path, cut):
    write(tmp_path, 0, 10)
    with (tmp_path / METRICS).open("a", encoding="utf-8") as file:
        file.write(cut)
    assert steps(tmp_path) == [10]


@pytest.mark.parametrize("line", ["{}", '{"ste', "\0\0", "[]", '{"step": "10"}'])
def test_another_damaged_line_is_named(tmp_path, line):
    write(tmp_path, 0, 10, 20)
    lines = (tmp_path / METRICS).read_text().splitlines()
    (tmp_path / METRICS).write_text("\n".join([line, *lines[1:], ""]))
    with pytest.raises(ValueError, match=r"jsonl, line 1 is damaged \(.*remove that line"):
        read_metrics(tmp_path)


def test_a_truncated_line_does_not_damage_the_next_one(tmp_path):
    write(tmp_path, 0, 10)
    with (tmp_path / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record(20))[:30])
    write(tmp_path, 10, 20, 30)
    assert read_metrics(tmp_path) == [record(10), record(20), record(30)]


def test_a_line_truncated_inside_a_character_is_ignored(tmp_path):
    write(tmp_path, 0, 10)
    with (tmp_path / METRICS).open("ab") as file:
        file.write('{"phase": "ä'.encode()[:-1])
    assert steps(tmp_path) == [10]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    log = MetricsLog(tmp_path, 0, enabled=False)
    log.write_epoch(record(1))
    log.write_scalars(1, {"train/loss": 1.0})
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
    log, seen = MetricsLog(tmp_path, 0, True, [Events(tmp_path / "tensorboard", 0)]), {}
    scalars = Events.scalars

    def added(self, step, values):
        seen.update({(name, step): value for name, value in values.items()})
        scalars(self, step, values)

    monkeypatch.setattr(Events, "scalars", added)
    log.write_epoch(record(7, 0.75))
    log.write_scalars(8, {"train/loss": 1.5})
    log.close()
    assert seen == {
        ("train/loss", 7): 0.25,
        ("train/images_per_second", 7): 9.0,
        ("val/mAP", 7): 0.75,
        ("val/loss", 7): 0.5,
        ("base_rate/mAP", 7): 0.1,
        ("base_rate/loss", 7): 0.6,
        ("train/loss", 8): 1.5,
    }
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.stat().st_size > 0


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    log = MetricsLog(tmp_path, 0, enabled=True)
    (tmp_path / METRICS).mkdir()
    with pytest.raises(OSError, match=r"metrics\.jsonl cannot be written \(Is a dir"):
        log.write_epoch(record(1))


def test_each_map_has_a_name_of_its_own(tmp_path):
    seen: dict[str, float] = {}
    log = MetricsLog(tmp_path, 0, True, [lambda step, numbers: seen.update(numbers)])
    sample = {"mAP": 0.9, "loss": 0.1, "val_mAP": 0.6, "classes": 2, "images": 9}
    log.write_epoch(record(10) | {"val": {"mAP": 0.5, "loss": 1.0}, "train_sample": sample})
    log.close()
    maps = {name: value for name, value in seen.items() if "mAP" in name}
    assert maps["val/mAP"] == 0.5 and maps["val/mAP_over_classes_of_train_sample"] == 0.6
    assert maps["train_sample/mAP"] == 0.9 and "train_sample/val_mAP" not in maps
    assert read_metrics(tmp_path)[0]["train_sample"] == sample


def test_a_full_disk_is_a_warning_and_the_line_is_written_with_the_next(
    tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = MetricsLog(tmp_path, 0, enabled=True)
    log.write_epoch(record(10))
    assert log.for_metadata() == {metrics_log.RECORDS: 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # the line is in the file, and taken back
        log.write_epoch(record(20))
    assert steps(tmp_path) == [10]
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"{tmp_path / METRICS} cannot be written (no space left on device); the next eval" in said
    )
    unwritten = log.for_metadata()[metrics_log.UNWRITTEN]
    assert unwritten == [record(20)]
    log.write_epoch(record(30))
    assert steps(tmp_path) == [10, 20, 30]
    assert log.for_metadata() == {metrics_log.RECORDS: 3}


def test_a_line_that_stays_unwritten_is_an_error_at_the_end(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = MetricsLog(tmp_path, 0, enabled=True)
    monkeypatch.setattr(metrics_log, "append", full)
    log.write_epoch(record(10))
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\). Fix"):
        log.close()
    log.abandon()  # the run has failed already


@pytest.mark.parametrize("has_line", [True, False])
def test_a_line_in_the_checkpoint_is_written_at_the_next_start(tmp_path, has_line):
    write(tmp_path, 0, 10, *([20] if has_line else []))
    MetricsLog(tmp_path, 20, enabled=True, metadata={metrics_log.UNWRITTEN: [record(20)]})
    assert steps(tmp_path) == [10, 20]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"val": None}, "it has no val"),
        ({"val": {"mAP": 0.5}}, "val has no number loss"),
        ({"best_by": "AUROC"}, "val has no number AUROC"),
        ({"base_rate": []}, "it has no base_rate"),
        ({"epoch": "1"}, "it has no number epoch"),
        ({"phase": 3}, "it has no phase"),
        ({"train_sample": {"mAP": 1}}, "train_sample has no number loss"),
    ],
)
def test_a_line_without_a_part_is_named(tmp_path, change, problem):
    write(tmp_path, 0, 10)
    with (tmp_path / METRICS).open("a") as file:
        file.write(json.dumps(record(20) | change) + "\n")
    with pytest.raises(ValueError, match=rf"jsonl, line 2 is damaged \({problem}\); remove"):
        read_metrics(tmp_path)


def test_a_record_without_validation_images_is_whole(tmp_path):
    log = MetricsLog(tmp_path, 0, enabled=True)
    log.write_epoch(record(10) | {"val": {}, "base_rate": {}})
    log.close()
    assert steps(tmp_path) == [10]


@pytest.mark.parametrize("lines", [None, 0, 1])
def test_a_run_that_continues_says_which_lines_are_gone(tmp_path, capsys, lines):
    log = MetricsLog(tmp_path, 0, enabled=True)
    log.write_epoch(record(10))
    log.write_epoch(record(20))
    metadata = log.for_metadata()
    log.close()
    MetricsLog(tmp_path, 20, True, metadata=metadata).close()
    MetricsLog(tmp_path, 20, True, metadata={}).close()  # of an older version
    assert capsys.readouterr().out == ""
    path = tmp_path / METRICS
    if lines is None:
        path.unlink()
    else:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[2 - lines :]))
    MetricsLog(tmp_path, 20, True, metadata=metadata).close()
    text = " ".join(capsys.readouterr().out.split())
    assert f"has {lines or 0} of the 2 evaluations up to step 20: it was cut" in text


@pytest.mark.parametrize("change", [os.unlink, lambda path: os.truncate(path, 5)])
def test_lines_that_are_gone_meanwhile_are_written_again(tmp_path, capsys, change):
    log = MetricsLog(tmp_path, 0, enabled=True)
    log.write_epoch(record(10))
    change(tmp_path / METRICS)
    log.write_epoch(record(20))
    log.write_epoch(record(30))
    log.close()
    assert steps(tmp_path) == [10, 20, 30]
    assert capsys.readouterr().out.count("deleted meanwhile; it is written again") == 1
