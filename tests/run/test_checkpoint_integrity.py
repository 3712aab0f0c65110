"""A workdir from anybody: only files and folders inside it are read and written."""

import os

import pytest

from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.stored_config import find_run
from mlcls_jax.system.files import CHECKSUMS, damage, write_checksums


@pytest.fixture
def workdir(tmp_path):
    """Returns a workdir with files as in a run, next to a folder that is not its own."""
    workdir = tmp_path / "run"
    for name in ("checkpoints/7/model", "tensorboard", "fold-0", "notes", "../elsewhere"):
        (workdir / name).mkdir(parents=True)
    (workdir / "config.json").write_text("{}")
    (workdir / "checkpoints" / "7" / "model" / "array").write_bytes(b"1")
    write_checksums(workdir / "checkpoints" / "7")
    return workdir


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "tensorboard/x", "checkpoints", "checkpoints/7/model/x", "fold-0/splits.csv"],
)
@pytest.mark.parametrize("kind", ["link", "device, FIFO or socket"])
def test_a_link_or_a_fifo_is_refused_by_name(workdir, name, kind):
    path = workdir / name
    if path.exists():
        path.rename(workdir / "notes" / "moved")
    if kind == "link":
        path.symlink_to(workdir / ".." / "elsewhere")
    else:
        os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{path} is a {kind}; a run is read and written only"):
        open_workdir(workdir)


def test_the_workdir_may_be_a_link_and_have_other_folders(workdir, tmp_path):
    (workdir / "notes" / "link").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(workdir)
    assert open_workdir(tmp_path / "linked") == tmp_path / "linked"
    assert find_run(str(tmp_path / "linked")) == (tmp_path / "linked", "best")
    (workdir / "checkpoints" / "8").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a link"):
        find_run(str(tmp_path / "linked"))


def test_a_folder_of_weights_may_have_links(tmp_path):
    """Hugging Face keeps a config.json and weights as links to its cache."""
    (tmp_path / "config.json").symlink_to("blob")
    (tmp_path / "blob").write_text("{}")
    assert find_run(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["/dev/zero", "model/fifo", "model/link", "../../../elsewhere/x"])
def test_checksums_open_nothing_but_files_of_the_checkpoint(workdir, name):
    checkpoint = workdir / "checkpoints" / "7"
    os.mkfifo(checkpoint / "model" / "fifo")
    (checkpoint / "model" / "link").symlink_to("/dev/zero")
    (workdir / ".." / "elsewhere" / "x").touch()
    assert damage(checkpoint) == ""
    with (checkpoint / CHECKSUMS).open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert damage(checkpoint) == f"{name} is missing"


def test_checksums_that_are_a_fifo_are_damage(workdir):
    checkpoint = workdir / "checkpoints" / "7"
    (checkpoint / CHECKSUMS).unlink()
    os.mkfifo(checkpoint / CHECKSUMS)
    assert damage(checkpoint) == f"{CHECKSUMS} cannot be read"
