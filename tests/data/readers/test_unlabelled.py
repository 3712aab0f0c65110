"""Images without labels, from a folder or listed in a CSV."""

import pytest

from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.unlabelled import folder_table, listed_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.png", "sub/c.webp", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return tmp_path / "photos"


def test_a_folder_is_a_table_with_unknown_labels(folder):
    table = folder_table(str(folder), ["cat", "dog"])
    assert table.filenames == ("a.png", "b.jpg", "sub/c.webp")
    assert table.classes == ("cat", "dog") and table.labels.tolist() == [[-1, -1]] * 3
    assert table.paths == [str(folder / name) for name in table.filenames]
    with pytest.raises(ValueError, match="contains no images"):
        folder_table(str(folder / "nowhere"), ["cat"])


def test_a_csv_of_file_names_only_is_accepted_if_unlabelled(folder):
    csv = folder / "names.csv"
    csv.write_text("filename\nb.jpg\na.png\n")
    table = read_labels(csv, folder, classes=("cat", "dog"), unlabelled=True)
    assert table.filenames == ("b.jpg", "a.png") and table.labels.tolist() == [[-1, -1]] * 2
    with pytest.raises(ValueError, match="no class columns"):
        read_labels(csv, folder, classes=("cat", "dog"))


def test_other_columns_of_a_list_of_images_are_ignored(folder):
    csv = folder / "names.csv"
    csv.write_text("file,note\nsub/c.webp,x\nb.jpg,\n")
    expected = ["sub/c.webp", "b.jpg"]
    paths = [str(folder / name) for name in expected]
    assert listed_images(str(csv), "", "file") == (expected, paths)
    other = folder.parent / "other.csv"
    csv.rename(other)
    assert listed_images(str(other), str(folder), "file") == (expected, paths)
    with pytest.raises(ValueError, match="2 of 2 images are not in"):
        listed_images(str(other), "", "file")
    with pytest.raises(ValueError, match="no column 'filename'"):
        listed_images(str(other), str(folder), "filename")
    other.write_text("file\n")
    with pytest.raises(ValueError, match="no rows below the header"):
        listed_images(str(other), str(folder), "file")
