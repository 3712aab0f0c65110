"""Fingerprints of the data of a run: which changes are refused, and which are said."""

import io
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.run.fingerprints import (
    check_data_kept,
    check_split_kept,
    read_fingerprints,
    take_fingerprints,
    write_fingerprints,
)
from mlcls_jax.run.workdir import FINGERPRINTS

COUNT = 100


@pytest.fixture
def splits(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    names = tuple(f"{number:03}.jpg" for number in range(COUNT))
    for number, name in enumerate(names):
        (folder / name).write_bytes(b"image %03d" % number)
        os.utime(folder / name, ns=(0, number))
    labels = (np.arange(COUNT * 2).reshape(COUNT, 2) % 3 == 0).astype(np.int8)
    table = LabelTable(str(folder), names, labels, ("cat", "dog"))
    splits = {"train": table.take(range(80)), "val": table.take(range(80, COUNT))}
    write_fingerprints(tmp_path, take_fingerprints(splits, 2))
    return splits


def check(workdir, splits, accepted=False):
    return check_data_kept(workdir, take_fingerprints(splits, 2), splits, accepted)


def test_the_same_data_are_accepted_without_a_word(tmp_path, splits, capsys):
    assert check(tmp_path, splits) is False
    check_split_kept(tmp_path, "val", splits["val"], 2, accepted=False)
    assert check_data_kept(tmp_path, take_fingerprints(splits), splits, accepted=False) is False
    assert capsys.readouterr().out == ""


def with_labels(table, change):
    return replace(table, labels=change(table.labels.copy()))


def inverted(labels):
    return 1 - labels


def exchanged(labels):
    """Exchanges the labels of two images, after which each class has as many positive images."""
    labels[[0, 1]] = labels[[1, 0]]
    return labels


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            lambda s: s | {"train": with_labels(s["train"], inverted)},
            r"the labels of train have changed \('cat' has 53 positive images, and had 27\)",
        ),
        (
            lambda s: s | {"val": with_labels(s["val"], exchanged)},
            "the labels of val have changed, with as many positive images of each class",
        ),
        (
            lambda s: {"train": s["train"], "val": s["val"].take(range(10))},
            "val has 10 images, and had 20",
        ),
        (
            lambda s: s | {"val": s["val"].take(range(19, -1, -1))},
            "val has other images, or another order of them",
        ),
        (lambda s: s | {"test": s["val"]}, "the split test is new"),
    ],
)
def test_changed_labels_and_splits_are_refused_unless_they_are_accepted(
    tmp_path, splits, changed, said, capsys
):
    with pytest.raises(ValueError, match=f"{said}.*--accept-changed-data"):
        check(tmp_path, changed(splits))
    assert check(tmp_path, changed(splits), accepted=True) is True
    assert re.search(f"warning: .*{said}", " ".join(capsys.readouterr().out.split()))


def test_soft_labels_count(tmp_path, splits):
    soft = replace(splits["train"], targets=splits["train"].labels * np.float32(0.9))
    with pytest.raises(ValueError, match="labels of train have changed"):
        check(tmp_path, splits | {"train": soft})


def rewritten(folder):
    """Writes an image of another size."""
    (folder / "090.jpg").write_bytes(b"another")
    return r"the files of 1 images of val have changed \('090.jpg'\)"


def same_size(folder):
    """Writes an image of the same size at the same time; its contents are in the sample."""
    (folder / "090.jpg").write_bytes(b"IMAGE 090")
    os.utime(folder / "090.jpg", ns=(0, 90))
    return r"the files of 1 images of val have changed \('090.jpg'\)"


def swapped(folder):
    """Exchanges two images under their names, of which one is in the sample."""
    os.rename(folder / "001.jpg", folder / "x")
    os.rename(folder / "004.jpg", folder / "001.jpg")
    os.rename(folder / "x", folder / "004.jpg")
    return (
        r"1 images of train have changed \('001.jpg'\) .* 1 images of train have the same sizes, "
        r"but were written again or exchanged \('004.jpg'\)"
    )


@pytest.mark.parametrize("change", [rewritten, same_size, swapped])
def test_changed_images_are_named_in_a_warning(tmp_path, splits, change, capsys):
    said = change(tmp_path / "images")
    assert check(tmp_path, splits) is True
    assert re.search(f"warning: .*{said}", " ".join(capsys.readouterr().out.split()))


def test_a_copy_of_the_images_has_other_times_only(tmp_path, splits, capsys):
    for file in (tmp_path / "images").iterdir():
        os.utime(file, ns=(0, 5_000))
    assert check(tmp_path, splits) is True
    assert capsys.readouterr().out == ""


def test_a_run_without_fingerprints_continues(tmp_path, splits, capsys):
    (tmp_path / FINGERPRINTS).unlink()
    inverse = {"train": with_labels(splits["train"], inverted)}
    assert check(tmp_path, inverse) is True
    assert capsys.readouterr().out == ""


def an_archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def about(text):
    return np.frombuffer(text.encode(), np.uint8)


DIGESTS = '{"names": "", "labels": "", "positives": [], "sampled": {"5": "a"}}'


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"PK\x03\x04",
        an_archive(about=about("{}")),
        an_archive(about=about('{"version": 1, "splits": {"train": {}}}')),
        an_archive(about=about('{"version": 1, "splits": []}')),
        an_archive(
            about=about(f'{{"version": 1, "splits": {{"train": {DIGESTS}}}}}'),
            train=np.zeros((3, 2), np.int64),  # no row 5
        ),
        an_archive(
            about=about(f'{{"version": 1, "splits": {{"train": {DIGESTS}}}}}'),
            train=np.zeros(9),
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, contents):
    (tmp_path / FINGERPRINTS).write_bytes(contents)
    with pytest.raises(ValueError, match=r"fingerprints\.npz cannot be read .*remove it"):
        read_fingerprints(tmp_path)


def test_fingerprints_of_another_version_count_as_none(tmp_path):
    (tmp_path / FINGERPRINTS).write_bytes(an_archive(about=about('{"version": 2}')))
    assert read_fingerprints(tmp_path) is None
