"""The list of labels that may be wrong: written, edited by a person, and read back."""

from pathlib import Path

import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.corrections import read_corrections
from mlcls_jax.diagnosis.label_errors import Suspect
from mlcls_jax.diagnosis.suspects_csv import write_suspects

NAMES = ("=a, b.jpg", "x;=1.jpg", "c.jpg")
TABLE = LabelTable(Path("p"), NAMES, np.zeros((3, 2), np.int8), ("cat", "+dog"))
FOUND = [Suspect(row, row % 2, 0, 0.9, 0.8) for row in range(3)]


def test_a_list_is_edited_read_back_and_not_written_again(tmp_path):
    path = tmp_path / "label_suspects.csv"
    assert write_suspects(path, TABLE, FOUND) and write_suspects(path, TABLE, FOUND)
    assert read_corrections(str(path)).labels == {}
    lines = path.read_text().splitlines()
    assert lines[0] == "filename,class,label,probability,wrong,rank,corrected"
    edited = "\n".join(
        [lines[0], *(line + value for line, value in zip(lines[1:], "1?0", strict=True))]
    )
    path.write_text(edited + "\n")
    found = read_corrections(str(path))
    assert found.labels == {(NAMES[0], "cat"): 1, (NAMES[1], "+dog"): -1, (NAMES[2], "cat"): 0}
    corrected = found.applied({"val": TABLE})["val"]
    assert corrected.labels.tolist() == [[1, 0], [0, -1], [0, 0]]
    assert not write_suspects(path, TABLE, FOUND[:1])
    assert path.read_text() == edited + "\n"


def test_a_value_that_is_no_label_is_kept_too(tmp_path):
    path = tmp_path / "label_suspects.csv"
    path.write_text("filename,class,corrected\nc.jpg,cat,maybe\n")
    assert not write_suspects(path, TABLE, FOUND)
