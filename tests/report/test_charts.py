"""Figures, charts and thumbnails of the report."""

import base64

import numpy as np
import pytest
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, precision_recall_fscore_support

from mlcls_jax.data.images.decoding import decode
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.report.class_figures import (
    PAIRS,
    POINTS,
    TABLE,
    class_rows,
    co_occurrence,
    confused,
    precision_recall,
    reliability,
    together,
)
from mlcls_jax.report.thumbnails import SHOWN, SIDE, Thumbnails, hits, mistakes


def made(images=200, classes=5, unknown=0.0, seed=0):
    """A table, informative probabilities for it, and the classes predicted at 0.5."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, classes)) < 0.3).astype(np.int8)
    probabilities = np.clip(labels * 0.4 + rng.random(labels.shape) * 0.6, 0, 1)
    labels[rng.random(labels.shape) < unknown] = -1
    names = tuple(f"{i:04}.png" for i in range(images))
    table = LabelTable("p", names, labels, tuple(f"class {c}" for c in range(classes)))
    return table, probabilities, probabilities >= 0.5


def test_rows_of_classes_are_scikit_learn_s_figures():
    table, probabilities, present = made()
    rows = class_rows(table, table, probabilities, present, (0.5,) * 5)
    theirs = precision_recall_fscore_support(table.labels, present)
    ours = [[row.precision, row.recall, row.f1, row.val] for row in rows]
    np.testing.assert_allclose(np.array(ours, float).T, theirs)
    assert [row.name for row in rows] == list(table.classes)
    assert [row.train for row in rows] == list(table.positives)


def test_unknown_labels_count_in_no_row():
    table, probabilities, present = made(unknown=0.3)
    rows = class_rows(table, table, probabilities, present, (0.5,) * 5)
    for c, row in enumerate(rows):
        known = table.labels[:, c] >= 0
        theirs = precision_recall_fscore_support(
            table.labels[known, c], present[known, c], average="binary"
        )
        np.testing.assert_allclose((row.precision, row.recall, row.f1), theirs[:3])


def test_a_class_without_positives_has_no_figures():
    table, probabilities, _ = made(classes=1)
    table.labels[:] = 0
    nothing = np.zeros_like(table.labels, bool)
    (row,) = class_rows(table, table, probabilities, nothing, (0.5,))
    assert (row.ap, row.f1, row.precision, row.recall, row.val) == (None, None, None, None, 0)


def test_curves_keep_their_area_with_few_points():
    table, probabilities, _ = made(images=3000, classes=2)
    each, pooled = precision_recall(table.labels, probabilities)
    assert len(each) == 2
    for recall, precision in [*each.values(), pooled]:
        assert len(recall) <= POINTS and recall.min() == 0 and recall.max() == 1
        assert (np.diff(recall) <= 0).all() or (np.diff(recall) >= 0).all()
        assert precision.min() > 0 and precision.max() <= 1
    rows = class_rows(table, table, probabilities, probabilities > 0.5, (0.5,) * 2)
    for curve, row in zip(each.values(), rows, strict=True):
        assert auc(*curve) == pytest.approx(row.ap, abs=0.01)


def test_the_reliability_diagram_is_scikit_learn_s():
    table, probabilities, _ = made(images=999)
    ours = reliability(table.labels, probabilities)
    share, mean = calibration_curve(table.labels.ravel(), probabilities.ravel(), n_bins=10)
    np.testing.assert_allclose([bin_.positives for bin_ in ours], share)
    np.testing.assert_allclose([bin_.probability for bin_ in ours], mean)
    assert sum(bin_.count for bin_ in ours) == table.labels.size
    assert reliability(np.array([[-1]], np.int8), np.array([[0.5]])) == []


def test_pairs_of_classes_are_counted_by_images():
    labels = np.array([[1, 0, 0]] * 3 + [[0, 1, 1]] * 2 + [[1, 1, -1]] * 2, np.int8)
    present = np.array([[0, 1, 0]] * 3 + [[0, 1, 1]] * 2 + [[1, 0, 1]] * 2, bool)
    names = ("a", "b", "c")
    found = [(pair.first, pair.second, pair.count) for pair in confused(names, labels, present)]
    assert found == [("a", "b", 3)]  # the unknown c of the last two was no mistake
    present[:3] = [1, 1, 0]
    found = [(p.first, p.second, p.count, p.labelled) for p in together(names, labels, present)]
    assert not [pair for pair in found if "c" in pair[:2]]
    present[:3, 2] = 1
    found = {(p.first, p.second): (p.count, p.labelled) for p in together(names, labels, present)}
    assert found[("a", "c")] == (3, 0)


def test_tables_of_pairs_are_limited():
    labels = np.zeros((8, 40), np.int8)
    labels[:, ::2] = 1
    assert len(confused(tuple(map(str, range(40))), labels, labels == 0)) == PAIRS


def test_shares_of_labels_together_are_counted_over_known_labels():
    table, _, _ = made(images=60, classes=30, unknown=0.3)
    columns, shares = co_occurrence(table)
    assert len(columns) == TABLE and columns == sorted(columns)
    assert min(table.positives[columns]) >= max(np.delete(table.positives, columns))
    for i, row in enumerate(columns):
        for j, column in enumerate(columns):
            those = table.labels[(table.labels[:, row] == 1) & (table.labels[:, column] >= 0)]
            expected = (those[:, column] == 1).mean() if len(those) else np.nan
            np.testing.assert_allclose(shares[i, j], expected)


def test_mistakes_are_the_most_confident_and_the_worst_of_each_image():
    table, probabilities, present = made(classes=3)
    for label in (0, 1):
        found = mistakes(table, probabilities, present, label)
        assert 0 < len(found) <= SHOWN
        assert len({one.row for one in found}) == len(found)
        sure = [abs(label - one.probability) for one in found]
        assert sure == sorted(sure, reverse=True)
        wrong = (table.labels == label) & (present != (label == 1))
        assert sure[0] == np.abs(label - probabilities)[wrong].max()
        for one in found:
            assert wrong[one.row, one.column] and one.filename == table.filenames[one.row]


def test_hits_have_a_positive_label_and_no_mistake():
    table, _, _ = made(classes=2, unknown=0.2)
    probabilities = np.where(table.labels == 1, 0.9, 0.2)
    found = hits(table, probabilities, probabilities >= 0.5)
    assert len(found) == SHOWN
    for one in found:
        assert one.labels and one.probability >= 0.8
    assert not hits(table, 1 - probabilities, probabilities < 0.5)


@pytest.mark.parametrize("size", [(600, 40), (900, 600), (60, 2000)])
def test_thumbnails_are_small_and_show_the_whole_image(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(noise).save(path)
    address = Thumbnails(PixelFormat()).of(str(path))
    head, data = address.split(",")
    assert head == "data:image/jpeg;base64" and len(data) < 60_000  # noise: 12 times a photograph
    height, width, _ = decode(base64.b64decode(data)).shape
    assert max(height, width) <= 2 * SIDE and min(height, width) <= SIDE
    assert width / height == pytest.approx(size[0] / size[1], rel=0.1)


def test_a_map_is_drawn_over_the_thumbnail_of_its_image(tmp_path):
    Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(tmp_path / "black.png")
    thumbnails, path = Thumbnails(PixelFormat()), str(tmp_path / "black.png")
    images = [thumbnails.of(path), thumbnails.with_map(path, lambda image: image + np.uint8(200))]
    black, bright = (decode(base64.b64decode(image.split(",")[1])) for image in images)
    assert black.max() < 5 and bright.min() > 195 and black.shape == bright.shape


def test_an_image_that_cannot_be_read_has_no_thumbnail(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    thumbnails = Thumbnails(PixelFormat())
    assert thumbnails.of(str(tmp_path / "text.jpg")) == ""
    assert thumbnails.of(str(tmp_path / "gone.jpg")) == ""
