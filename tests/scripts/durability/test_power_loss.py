"""The model of what a power failure leaves."""

import pytest
from power_loss import Call, Model, read_calls


@pytest.fixture
def model(tmp_path):
    """Returns a model, and a function that applies calls; before each fsync, files are copied."""
    root, copies = tmp_path / "root", tmp_path / "copies"
    found, numbers = Model(root, copies), iter(range(1, 100))

    def apply(name, path="", second="", contents=b"", error=0):
        number = next(numbers)
        copy = copies / str(number) / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if contents:
            copy.write_bytes(contents)
        found.apply(Call(number, name, error, root / path, str(root / second)))

    return found, apply


def left(model, folder, names_last):
    """Returns the contents of each file, and None for each folder."""
    folder.mkdir()
    model.write(folder, names_last)
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in paths
    }


def test_a_file_without_an_fsync_is_empty_or_absent(model, tmp_path):
    model, apply = model
    apply("create", "a")
    apply("write", "a")
    assert left(model, tmp_path / "kept", names_last=True) == {"a": b""}
    assert left(model, tmp_path / "lost", names_last=False) == {}
    apply("fsync", "a", contents=b"text")
    assert left(model, tmp_path / "still lost", names_last=False) == {}
    apply("fsync")
    assert left(model, tmp_path / "there", names_last=False) == {"a": b"text"}


def test_a_rename_without_an_fsync_of_its_folder_leaves_the_old_file(model, tmp_path):
    model, apply = model
    for name, contents in (("a", b"old"), ("b", b"new")):
        apply("create", name)
        apply("fsync", name, contents=contents)
        apply("fsync") if name == "a" else None
    apply("rename", "b", "a")
    assert model.names() == {"a"}
    assert left(model, tmp_path / "lost", names_last=False) == {"a": b"old"}
    assert left(model, tmp_path / "kept", names_last=True) == {"a": b"new"}


def test_a_folder_is_lost_with_what_is_in_it(model, tmp_path):
    model, apply = model
    apply("mkdir", "f")
    apply("create", "f/a")
    apply("fsync", "f/a", contents=b"text")
    apply("fsync", "f")
    assert left(model, tmp_path / "lost", names_last=False) == {}
    apply("fsync")
    apply("unlink", "f/a")
    assert left(model, tmp_path / "there", names_last=False) == {"f": None, "f/a": b"text"}
    assert left(model, tmp_path / "deleted", names_last=True) == {"f": None}


def test_a_call_that_failed_changes_nothing(model):
    model, apply = model
    apply("create", "a", error=28)
    assert model.names() == set()


def test_calls_are_read_from_the_log(tmp_path):
    (tmp_path / "log").write_text("1\tcreate\t0\t/r/a\t\n2\trename\t5\t/r/a\t/r/b\n")
    calls = read_calls(tmp_path / "log")
    assert [(call.name, call.error, call.path.name, call.second) for call in calls] == [
        ("create", 0, "a", ""),
        ("rename", 5, "a", "/r/b"),
    ]
