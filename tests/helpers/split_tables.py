"""Tables of made-up images, and what their splits must be."""

from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.splits import make_splits


def random_table(n=200, c=6, seed=0, folder="images", prefix="p", density=0.2) -> LabelTable:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, c)) < density).astype(np.int8)
    labels[rng.random((n, c)) < 0.05] = UNKNOWN
    names = tuple(f"{prefix}{i}.jpg" for i in rng.permutation(n))
    return LabelTable(Path(folder), names, labels, tuple(f"class {j}" for j in range(c)))


def divide(*tables, val_fraction=0.25, test_fraction=0.0, seed=42):
    options = {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
    return make_splits(*tables, **options)


def members(splits) -> dict[str, set[str]]:
    return {split: set(table.filenames) for split, table in splits.items()}


def names(splits) -> dict[str, tuple[str, ...]]:
    return {split: table.filenames for split, table in splits.items()}


def assert_partition(splits, table) -> None:
    """Checks that every row is used once, in the table's order, with its own labels."""
    position = {name: i for i, name in enumerate(table.filenames)}
    rows = {split: [position[name] for name in part.filenames] for split, part in splits.items()}
    assert sorted(i for part in rows.values() for i in part) == list(range(len(table)))
    for split, part in splits.items():
        assert rows[split] == sorted(rows[split])
        assert np.array_equal(part.labels, table.labels[rows[split]])
        assert part.classes == table.classes


def refusal(call, *args, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    return str(caught.value)
