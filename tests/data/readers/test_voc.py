"""Pascal VOC folders, made here in the real layout."""

import pytest
from layouts import make_voc

from mlcls_jax.config import Data
from mlcls_jax.data.readers.detection import AnnotationPolicy
from mlcls_jax.data.readers.voc import read_voc
from mlcls_jax.data.splits import load_splits

USUAL = AnnotationPolicy("present", "unknown", 0.0)


@pytest.fixture
def tree(tmp_path):
    return make_voc(tmp_path)


def lists(tree):
    return tree / "ImageSets" / "Main"


def test_the_tree_has_its_splits_and_a_difficult_object_alone_is_unknown(tree):
    table = read_voc(tree, USUAL)
    assert table.classes == ("car", "dog", "person")  # object parts are ignored
    stems = ["000005", "000007", "000009", "000001", "000002"]
    assert table.filenames == tuple(f"{stem}.jpg" for stem in stems)
    assert table.splits == ("train", "train", "val", "test", "test")
    assert table.labels.tolist() == [[0, -1, 1], [1, 0, 0], [1, 1, 0], [0, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize(("difficult", "value"), [("present", 1), ("absent", 0)])
def test_difficult_objects_follow_the_policy(tree, difficult, value):
    table = read_voc(tree, AnnotationPolicy("present", difficult, 0.0))
    assert table.labels[0].tolist() == [0, value, 1] and table.labels[3].tolist() == [0, 0, value]


def test_a_list_has_no_splits_and_may_lack_a_class(tree):
    data = Data(
        source="voc",
        csv=str(lists(tree) / "trainval.txt"),
        test_csv=str(lists(tree) / "test.txt"),
        val_fraction=0.34,
    )
    splits = load_splits(data)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [2, 1, 2]
    assert splits["test"].labels.tolist() == [[0, 0, -1], [0, 0, 0]]
    (lists(tree) / "trainval.txt").write_text("000007\n")
    with pytest.raises(ValueError, match="'person', which are not classes of train"):
        load_splits(data)


def test_without_annotations_all_labels_of_a_list_are_unknown(tree):
    for stem in ("000001", "000002"):
        (tree / "Annotations" / f"{stem}.xml").unlink()
    assert read_voc(tree, USUAL).labels[3:].tolist() == [[-1, -1, -1]] * 2


def test_without_lists_every_annotation_counts_and_other_extensions_are_found(tree):
    for file in lists(tree).iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"has none of train\.txt"):
        read_voc(tree, USUAL)
    lists(tree).rmdir()
    (tree / "JPEGImages/000009.jpg").rename(tree / "JPEGImages/000009.PNG")
    (tree / "JPEGImages/000009.a.txt").touch()
    (tree / "JPEGImages/000009.txt").touch()
    table = read_voc(tree, USUAL)
    assert table.splits is None and "000009.PNG" in table.filenames and len(table) == 5


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation>&a;</annotation>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "declares a document type 'lolz'"),
        (FILE, "declares a document type 'x'"),
        ("", "no element found"),
        ("<annotation><object>", "no element found"),
        ('<?xml version="1.0" encoding="foo"?><annotation/>', "unknown encoding"),
        ("<annotation>&undefined;</annotation>", "undefined entity"),
        ("<annotation><object/></annotation>", "object 1: it has no name"),
        (
            "<annotation><object><name>cat</name><difficult>yes</difficult></object></annotation>",
            "object 1: difficult is 'yes'",
        ),
    ],
)
def test_annotations_that_cannot_be_read_are_named(tree, text, words):
    (tree / "Annotations/000007.xml").write_text(text)
    with pytest.raises(ValueError, match=words) as info:
        read_voc(tree, USUAL)
    assert "000007.xml" in str(info.value) and "\n" not in str(info.value)


def test_mistakes_are_named(tree):
    with pytest.raises(ValueError, match=r"is not a label CSV; set data\.source='voc'"):
        load_splits(Data(csv=str(tree)))
    (lists(tree) / "dog_train.txt").write_text("000005 -1\n000007  1\n")
    for place, words in [
        (tree.parent, "VOCdevkit has no folder Annotations"),
        (lists(tree) / "dog_train.txt", "line 1 has 2 words, so this is the list of one class"),
        (lists(tree) / "nowhere.txt", "cannot be read"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_voc(place, USUAL)
    (tree / "Annotations/000007.xml").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images have no annotation in .*'000007\.xml'"):
        read_voc(tree, USUAL)
    (lists(tree) / "test.txt").write_text("000009\n000003\n")
    (tree / "Annotations/000003.xml").write_text("<annotation/>")
    with pytest.raises(ValueError, match=r"images\[1\]: '000003\.jpg'"):
        read_voc(lists(tree) / "test.txt", USUAL)
