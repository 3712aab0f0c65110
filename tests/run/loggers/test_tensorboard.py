"""TensorBoard event files, and a full disk."""

import errno

import pytest
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2

from mlcls_jax.run.loggers.tensorboard import Events

Event, SessionLog = (getattr(event_pb2, name) for name in ("Event", "SessionLog"))


def read(folder):
    """Returns the events of the only file in a folder: length, checksum, event, checksum."""
    (file,) = folder.iterdir()
    assert file.name.startswith("events.out.tfevents.")
    data, events = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def test_scalars_of_steps_after_the_one_that_was_restored(tmp_path):
    events = Events(tmp_path / "tensorboard", 7)
    events.flush()
    assert not (tmp_path / "tensorboard").exists()  # created with the first scalar
    events.scalars(8, {"val/mAP": 0.5, "train/loss": 0.25})
    assert len(read(tmp_path / "tensorboard")) == 4  # at once
    events.scalars(9, {"val/mAP": 0.75})
    events.end("finished")
    version, start, *rest = read(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, SessionLog.START)
    values = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in rest]
    assert values == [(8, "val/mAP", 0.5), (8, "train/loss", 0.25), (9, "val/mAP", 0.75)]
    assert all(event.wall_time > 1.7e9 for event in rest)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file left open
@pytest.mark.parametrize("method", ["__init__", "write_event", "flush", "close"])
def test_a_full_disk_is_one_warning_and_training_continues(tmp_path, monkeypatch, capsys, method):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_file_writer.EventsWriter, method, full)
    events = Events(tmp_path / "tensorboard", 0)
    for step in range(3):
        events.scalars(step, {"loss": 1.0})
        events.flush()
    events.end("finished")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("no more TensorBoard events") == 1
    assert "(No space left on device); training continues" in said


def test_a_run_that_fails_keeps_its_last_scalars(tmp_path):
    events = Events(tmp_path, 0)
    for step in range(3):
        events.scalars(step, {"loss": 1.0})
    del events
    assert [event.step for event in read(tmp_path)[2:]] == [0, 1, 2]
