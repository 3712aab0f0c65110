"""Label files in public layouts have the right labels, train, and are documented as they print."""

from pathlib import Path

import numpy as np
import pytest
from label_files import PRESENT, Layout, read, write
from print_tables import TABLES, replaced
from public_layouts import LAYOUTS
from reported_cases import CASES

from mlcls_jax.config import Config, Group, Model, Phase
from mlcls_jax.train import train

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def name_of(layout: Layout) -> str:
    return layout.name


@pytest.mark.parametrize("layout", LAYOUTS + CASES, ids=name_of)
def test_the_labels_are_right(layout, tmp_path):
    assert len(layout.options) <= 3
    if layout.expected is None:
        with pytest.raises(ValueError):
            read(write(layout, tmp_path))
        return
    table = read(write(layout, tmp_path))
    counts = dict(zip(table.classes, table.positives.tolist(), strict=True))
    assert counts == layout.expected
    assert len(table.notes) <= 1
    if layout.name == "class folders":
        return
    # The three classes of image i are its bits, wherever the file names it.
    others = {"No Finding", "clear", "healthy", "7"}
    columns = [table.classes.index(name) for name in layout.expected if name not in others]
    places = {Path(name).stem: i for i, name in enumerate(layout.images)}
    if "patient" in layout.images[0]:
        places = {name: i for i, name in enumerate(layout.images)}
    rows = [places.get(name, places.get(Path(name).stem, 15)) for name in table.filenames]
    np.testing.assert_array_equal(table.labels[:, columns] == 1, np.array(PRESENT)[rows])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_each_public_layout_trains(layout, tmp_path, tiny, capsys):
    data = write(layout, tmp_path)
    data.batch_size = data.eval_batch_size = 8
    data.val_fraction = 0.5
    phases = [Phase("head", "2 steps", [Group("head/.*", 1e-2)], cached_views=1)]
    model = Model(variant=tiny, weights="", image_size=32)
    assert train(Config(data=data, model=model, phases=phases), tmp_path / "run") == 0
    notes = read(data).notes
    assert "".join("".join(notes).split()) in "".join(capsys.readouterr().out.split())


def test_the_page_has_the_tables():
    page = PAGE.read_text("utf-8")
    pytest.importorskip("tifffile")
    pytest.importorskip("pydicom")
    assert set(TABLES) == {"public layouts", "reported cases", "deep images"}
    assert replaced(page) == page
