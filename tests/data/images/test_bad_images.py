"""Images that cannot be read: the first is an error, or all are skipped and listed."""

import csv
import errno

import pytest

from mlcls_jax.data.images import bad_images
from mlcls_jax.data.images.bad_images import SHOWN, BadImages
from mlcls_jax.data.images.image_error import ImageError


def test_the_first_is_an_error_with_advice():
    with pytest.raises(ValueError, match=r"x/a\.jpg cannot be read: why; .*on_bad_image=skip"):
        BadImages().report("x/a.jpg", ImageError("why"))


def test_skipped_images_are_counted_once_listed_and_printed(tmp_path):
    messages = []
    bad = BadImages(skip=True, limit=10, written=tmp_path / "bad.csv", tell=messages.append)
    assert bad.summary() == "" and not (tmp_path / "bad.csv").exists()
    for name in ("a", "b, c", "a", "d", "e"):
        bad.report(name, ImageError(f"reason of {name}"))
    assert len(bad) == 4 and "a" in bad and "z" not in bad
    with open(tmp_path / "bad.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "reason"], *([n, f"reason of {n}"] for n in ("a", "b, c", "d", "e"))]
    assert len(messages) == SHOWN
    assert "a cannot be read: reason of a; it is skipped" in messages[0]
    assert "4 images" in bad.summary() and "bad.csv" in bad.summary()


def test_the_list_waits_for_its_folder(tmp_path):
    bad = BadImages(skip=True, limit=9, written=tmp_path / "run" / "bad.csv")
    bad.report("a", ImageError("why"))
    (tmp_path / "run").mkdir()
    bad.write()
    assert (tmp_path / "run" / "bad.csv").read_text() == "path,reason\na,why\n"


def test_names_are_not_formulas_and_are_listed_once(tmp_path):
    for _ in range(2):
        bad = BadImages(skip=True, limit=9, written=tmp_path / "bad.csv")
        for name in ("=a", "b\rc", "d\udce9"):
            bad.report(name, ImageError("-why"))
            bad.write()
    with open(tmp_path / "bad.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert rows == [["'=a", "'-why"], ["b\rc", "'-why"], [r"d\udce9", "'-why"]]


def test_too_many_stop_the_run_and_are_still_listed(tmp_path):
    bad = BadImages(skip=True, limit=1, written=tmp_path / "bad.csv")
    bad.report("a", ImageError("why"))
    with pytest.raises(ValueError, match=r"2 images cannot be read.*max_bad_fraction.*bad\.csv"):
        bad.report("b", ImageError("why"))
    assert "b,why" in (tmp_path / "bad.csv").read_text()


def test_a_later_start_adds_to_the_list(tmp_path):
    for names in ("ab", "bc"):
        bad = BadImages(skip=True, limit=9, written=tmp_path / "bad.csv")
        for name in names:
            bad.report(name, ImageError("why"))
    assert (tmp_path / "bad.csv").read_text() == "path,reason\na,why\nb,why\nc,why\n"


def test_a_list_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "bad.csv").mkdir()
    bad = BadImages(skip=True, limit=9, written=tmp_path / "bad.csv")
    with pytest.raises(ValueError, match=r"bad\.csv, .*, cannot be written"):
        bad.report("a", ImageError("why"))


def test_bad_images_of_other_processes_are_listed_and_count_but_may_be_readable_here(tmp_path):
    found = {"y/other.jpg": "empty"}
    bad = BadImages(skip=True, limit=1, written=tmp_path / "bad.csv", share=lambda own: found | own)
    bad.write()
    assert (tmp_path / "bad.csv").read_text() == "path,reason\ny/other.jpg,empty\n"
    assert "y/other.jpg" not in bad  # this process may have another disk
    assert bad.summary().startswith("1 image could not be read")
    with pytest.raises(ValueError, match="2 images cannot be read"):
        bad.report("x/a.jpg", ImageError("why"))
    assert (tmp_path / "bad.csv").read_text().endswith("x/a.jpg,why\n")


def test_a_full_disk_is_one_warning_and_the_images_are_listed_later(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    bad = BadImages(skip=True, limit=9, written=tmp_path / "bad.csv", tell=said.append)
    with monkeypatch.context() as patch:
        patch.setattr(bad_images, "append", full)
        for name in "ab":
            bad.report(name, ImageError("why"))
    assert sum("bad.csv cannot be written (No space left on device)" in text for text in said) == 1
    bad.report("c", ImageError("why"))
    assert (tmp_path / "bad.csv").read_text() == "path,reason\na,why\nb,why\nc,why\n"
