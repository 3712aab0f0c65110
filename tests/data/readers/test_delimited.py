"""Several labels in one column, read like scikit-learn's MultiLabelBinarizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from mlcls_jax.config import Data
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.delimited import delimited_labels
from mlcls_jax.data.readers.detection import entries
from mlcls_jax.data.splits import load_splits


@given(st.lists(st.lists(st.sampled_from(["cow", "dog", "a cat", "Ä"])), min_size=1))
def test_as_in_scikit_learn(rows):
    if not any(rows):
        rows.append(["cow"])
    column = entries("labels.csv", "labels", ["; ".join(row) for row in rows])
    classes, labels, _ = delimited_labels(column, ";")
    theirs = MultiLabelBinarizer()
    assert labels.tolist() == theirs.fit_transform(rows).tolist()
    assert classes == tuple(theirs.classes_)


def test_labels_may_be_separated_by_one_or_two_spaces():
    classes, labels, _ = delimited_labels(entries("f", "x", ["a  b ", "", "b b"]), " ")
    assert classes == ("a", "b") and labels.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_the_right_delimiter_is_suggested():
    with pytest.raises(ValueError, match=r"no cell .* contains ','.* set data.label_delimiter=';'"):
        delimited_labels(entries("f", "x", ["a;b", "b;c", "a"]), ",")
    assert delimited_labels(entries("f", "x", ["a", "b", "c;d"]), ",")[0] == ("a", "b", "c;d")


@pytest.fixture
def csv(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()

    def write(text, name="labels.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_the_column_is_found_between_names_and_splits(csv, tmp_path):
    file = csv('filename,split,labels\na.jpg,train,"dog,cat"\nb.jpg,val,\nc.jpg,test,cat\n')
    table = read_labels(file, tmp_path, delimiter=",")
    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert table.splits == ("train", "val", "test")


def test_the_column_is_named_where_there_are_others(csv, tmp_path):
    file = csv("filename,note,tags\na.jpg,x,dog\nb.jpg,y,cat;dog\n")
    assert read_labels(file, tmp_path, delimiter=";", label_column="tags").classes == ("cat", "dog")
    for name in ("", "labels"):
        with pytest.raises(ValueError, match=r"the columns 'note', 'tags' .*data\.label_column="):
            read_labels(file, tmp_path, delimiter=";", label_column=name)


def test_categories_give_the_classes_and_their_order(csv, tmp_path):
    file = csv("filename,labels\na.jpg,dog\nb.jpg,cat;dgo\n")
    categories = csv("Labels\ndog\ncow\ncat\n", "categories.csv")
    with pytest.raises(ValueError, match=r"row 3, column 'labels': the label 'dgo' is not one of"):
        read_labels(file, tmp_path, delimiter=";", categories=categories)
    file = csv("filename,labels\na.jpg,dog\nb.jpg,cat\n")
    table = read_labels(file, tmp_path, delimiter=";", categories=categories)
    assert table.classes == ("dog", "cow", "cat")
    assert table.labels.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_mistakes_are_named(csv, tmp_path):
    for text, words in [
        ("filename,labels\na.jpg,dog\nb.jpg,Dog\n", "differ only in case"),
        ("filename,labels\na.jpg,\nb.jpg, ;\n", "column 'labels' has no labels"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_labels(csv(text), tmp_path, delimiter=";")


def test_validation_need_not_have_every_class(csv, tmp_path):
    csv("filename,labels\na.jpg,dog;cow\nb.jpg,cat\n")
    csv("filename,labels\nc.jpg,cat\n", "val.csv")
    data = Data(
        csv=str(tmp_path / "labels.csv"),
        images=str(tmp_path),
        val_csv=str(tmp_path / "val.csv"),
        label_delimiter=";",
    )
    assert load_splits(data)["val"].labels.tolist() == [[1, 0, 0]]
    csv("filename,labels\nc.jpg,horse\n", "val.csv")
    with pytest.raises(ValueError, match="'horse' is not one of the classes 'cat', 'cow', 'dog'"):
        load_splits(data)
