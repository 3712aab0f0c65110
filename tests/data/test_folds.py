"""Folds and splits of grouped images: groups stay together, sizes and classes are even."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.stratification import draw_folds, draw_splits


def table_of(labels: np.ndarray, groups: tuple[str, ...] | None = None) -> LabelTable:
    n, c = labels.shape
    names = tuple(f"{i:05}.jpg" for i in range(n))
    classes = tuple(f"class {j}" for j in range(c))
    return LabelTable("images", names, labels.astype(np.int8), classes, groups=groups)


def random_table(n: int, c: int, seed: int, groups: int = 0) -> LabelTable:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, c)) < np.geomspace(0.05, 0.5, c)).astype(np.int8)
    labels[rng.random((n, c)) < 0.05] = UNKNOWN
    names = tuple(f"g{i}" for i in rng.integers(groups, size=n)) if groups else None
    return table_of(labels, names)


def single_label_table(seed: int) -> tuple[LabelTable, int]:
    """Images of one class each, in groups of very different sizes with a main class each."""
    rng = np.random.default_rng(seed)
    n, classes, groups = rng.integers(60, 500), rng.integers(2, 7), rng.integers(20, 60)
    owner = rng.choice(groups, n, p=rng.dirichlet(np.ones(groups)))
    main = rng.integers(classes, size=groups)
    classes_of = np.where(rng.random(n) < 0.6, main[owner], rng.integers(classes, size=n))
    table = table_of(np.eye(int(classes))[classes_of], tuple(f"g{i}" for i in owner))
    return table, int(rng.integers(2, 6))


def unevenness(table: LabelTable, parts: np.ndarray, count: int) -> tuple[float, float]:
    """The standard deviations of the sizes of folds, and of their shares of each class."""
    sizes = np.bincount(parts, minlength=count)
    positives = np.array([(table.labels[parts == part] == 1).sum(axis=0) for part in range(count)])
    shares = positives / table.positives
    return float(sizes.std()), float(shares.std(axis=0).mean())


def test_sizes_and_class_shares_are_at_least_as_even_as_those_of_scikit_learn():
    from sklearn.model_selection import StratifiedGroupKFold

    ours, theirs = [], []
    for seed in range(12):
        table, folds = single_label_table(seed)
        parts = draw_folds(table, folds, seed)
        reference = np.empty(len(table), np.int64)
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        drawn = splitter.split(table.labels, table.labels.argmax(axis=1), table.groups)
        for fold, (_, rows) in enumerate(drawn):
            reference[rows] = fold
        ours.append(unevenness(table, parts, folds))
        theirs.append(unevenness(table, reference, folds))
    better = np.array(ours) <= np.array(theirs) + 1e-9
    assert (better.mean(axis=0) >= 0.75).all()
    assert (np.mean(ours, axis=0) <= np.mean(theirs, axis=0)).all()


def test_folds_of_images_without_groups_have_equal_sizes_and_class_shares():
    table = random_table(1003, 8, seed=0)
    parts = draw_folds(table, 5, seed=42)
    assert np.ptp(np.bincount(parts)) <= 2
    for fold in range(5):
        chosen = table.take(np.flatnonzero(parts == fold))
        assert (np.abs(chosen.positives - table.positives / 5) <= 2).all()


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(6, 60),
    groups=st.sampled_from([0, 5, 30]),
    folds=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_groups_stay_together_and_the_order_does_not_matter(n, groups, folds, seed, data):
    table = random_table(n, 3, seed, groups)
    if table.groups and len(set(table.groups)) < folds:
        return
    parts = draw_folds(table, folds, seed)
    assert set(parts) == set(range(folds))
    if table.groups:
        assert len({*zip(table.groups, parts.tolist(), strict=True)}) == len(set(table.groups))
    rows = data.draw(st.permutations(range(n)))
    classes = data.draw(st.permutations(table.classes))
    shuffled = table.take(rows).with_classes(classes, "here", "there")
    assert (draw_folds(shuffled, folds, seed) == parts[rows]).all()


def test_splits_keep_groups_together_and_have_their_shares():
    table = random_table(2000, 6, seed=1, groups=300)
    names = draw_splits(table, {"test": 0.1, "val": 0.25}, 42)
    groups = np.array(table.groups)
    for split, share in {"val": 0.25, "test": 0.1, "train": 0.65}.items():
        part = table.take(np.flatnonzero(names == split))
        assert abs(len(part) - 2000 * share) <= 10
        assert (np.abs(part.positives - table.positives * share) <= 10).all()
        assert not set(groups[names == split]) & set(groups[names != split])


def test_the_draw_of_seed_42_never_changes():
    """If it changed between releases, old and new results would not be comparable."""
    table = random_table(30, 3, seed=5, groups=10)
    names = draw_splits(table, {"val": 0.25}, 42)
    found = sorted(
        {group for group, name in zip(table.groups or (), names, strict=True) if name == "val"}
    )
    assert found == ["g0", "g8", "g9"]
    assert draw_folds(table_of(np.eye(6)), 3, 42).tolist() == [2, 0, 0, 2, 1, 1]


def test_other_seeds_draw_other_folds():
    table = random_table(100, 4, seed=2, groups=40)
    pairs = {
        tuple(part == parts[0] for part in parts)
        for parts in (draw_folds(table, 3, seed).tolist() for seed in range(5))
    }
    assert len(pairs) == 5


def test_images_without_a_group_are_groups_of_their_own():
    labels = np.array([[1, 0], [0, 1]] * 6)
    parts = draw_folds(table_of(labels, ("",) * 10 + ("a", "a")), 2, 0)
    assert np.bincount(parts).tolist() == [6, 6]
    assert parts[10] == parts[11]


def test_unknown_labels_count_as_absent():
    table = random_table(200, 5, seed=3, groups=60)
    known = replace(table, labels=np.maximum(table.labels, 0))
    assert (draw_folds(table, 4, 1) == draw_folds(known, 4, 1)).all()


def test_every_part_gets_a_group_even_if_groups_are_large():
    labels = np.zeros((100, 1))
    groups = tuple("a" * 97 + "bcd")
    assert set(draw_folds(table_of(labels, groups), 4, 0)) == {0, 1, 2, 3}
    names = draw_splits(table_of(labels, tuple("a" * 50 + "b" * 50)), {"val": 0.05}, 0)
    assert sorted(np.unique(names, return_counts=True)[1].tolist()) == [50, 50]


@pytest.mark.parametrize(
    ("groups", "folds", "seed", "words"),
    [
        (None, 1, 0, "folds: 1 is less than 2"),
        (None, 2, -1, "data.split_seed: -1"),
        (None, 5, 0, "4 images are too few for 5 folds"),
        (("a", "a", "b", "b"), 3, 0, r"2 groups \(data.group_column\) are too few for 3"),
    ],
)
def test_impossible_folds(groups, folds, seed, words):
    with pytest.raises(ValueError, match=words):
        draw_folds(table_of(np.zeros((4, 2)), groups), folds, seed)
