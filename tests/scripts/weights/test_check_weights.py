"""Our smallest variants against every reference implementation, and which errors would show.

The whole matrix is `python scripts/weights/check_weights.py`.
"""

import copy

import check_weights
import numpy as np
import pytest
from check_weights import TOLERANCE, Difference, compare, relative
from reference_models import CODE_BASES
from reference_models import VARIANTS as REFERENCE_VARIANTS
from reference_weights import random_images

from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.download import packaged_weights
from mlcls_jax.models.weights.layouts import TIMM
from mlcls_jax.models.weights.provenance import ARCHITECTURE, find_pretrained_config

# Keras's variables have an __array__ from before NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

SMALL = [
    (code_base, variant)
    for code_base in CODE_BASES
    for variant in ("b0", "v2b0")
    if variant in CODE_BASES[code_base].variants
] + [("lite fork", "lite0")]
ODD, EVEN, MIXED = (65, 97), (64, 64), (64, 97)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize(("code_base", "variant"), SMALL)
def test_ours_matches_the_reference(code_base, variant):
    difference = compare(code_base, variant, sizes=(ODD, EVEN))
    assert difference.is_small, difference


def test_every_variant_has_a_reference():
    assert set(REFERENCE_VARIANTS) == set(VARIANTS)
    assert {v for code_base in CODE_BASES.values() for v in code_base.variants} == set(VARIANTS)


@pytest.mark.reference
def test_normalisation_of_every_file_that_timm_publishes(tmp_path, timm):
    """The file's name alone decides the normalisation."""
    from timm import get_pretrained_cfg, list_pretrained

    names = [name for name in list_pretrained("*efficientnet*") if ARCHITECTURE.match(name)]
    variants = [name.partition(".")[0].split("efficientnet")[1].replace("_", "") for name in names]
    ours = [pair for pair in zip(names, variants, strict=True) if pair[1] in VARIANTS]
    assert len(ours) > 50
    for name, variant in ours:
        found = find_pretrained_config(
            tmp_path / f"{name}.safetensors", TIMM, variant, {}
        ).normalization
        cfg = get_pretrained_cfg(name)
        np.testing.assert_allclose(found.mean, 255 * np.array(cfg.mean), rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(found.std, 255 * np.array(cfg.std), rtol=1e-6, err_msg=name)


# The effect of reading weights wrongly, shown on the references alone.


def build(code_base, variant="b0"):
    return CODE_BASES[code_base].build(variant, np.random.default_rng(0))


def copied(reference):
    other = copy.copy(reference)
    other.model = copy.deepcopy(reference.model)
    return other


def norms(reference):
    modules = reference.model.modules()
    return [module for module in modules if type(module).__name__.startswith("BatchNorm")]


def logits_change(reference, other, size):
    images = random_images(np.random.default_rng(1), (2, *size, 3))
    return relative(other.logits(images), reference.logits(images))


def trained_statistics(reference):
    """(count, before, after) of each running variance, for a pass in training mode."""
    counts = []
    hooks = [
        norm.register_forward_pre_hook(lambda _, x: counts.append(x[0].numel() // x[0].shape[1]))
        for norm in norms(reference)
    ]
    before = [norm.running_var.numpy().copy() for norm in norms(reference)]
    reference.train_forward(random_images(np.random.default_rng(1), (2, *ODD, 3)))
    for hook in hooks:
        hook.remove()
    after = [norm.running_var.numpy() for norm in norms(reference)]
    return list(zip(counts, before, after, strict=True))


@pytest.fixture(scope="module")
def timm():
    return build("timm")


@pytest.mark.reference
def test_wrong_padding_shows_at_even_sizes_only(timm):
    other = build("timm tf")
    other.model.load_state_dict(timm.model.state_dict())
    for norm, timm_norm in zip(norms(other), norms(timm), strict=True):
        norm.eps = timm_norm.eps
    assert logits_change(timm, other, EVEN) > 1000 * TOLERANCE
    assert logits_change(timm, other, MIXED) > 1000 * TOLERANCE
    assert logits_change(timm, other, ODD) < TOLERANCE


@pytest.mark.reference
def test_wrong_epsilon_shows(timm):
    other = copied(timm)
    for norm in norms(other):
        assert norm.eps == 1e-5
        norm.eps = 1e-3
    assert logits_change(timm, other, ODD) > 1000 * TOLERANCE


@pytest.mark.reference
def test_wrong_normalisation_shows(timm):
    other = copied(timm)
    other.mean, other.std = (0.5,) * 3, (0.5,) * 3
    assert logits_change(timm, other, ODD) > 1000 * TOLERANCE


@pytest.mark.reference
@pytest.mark.parametrize("code_base", ["timm", "lukemelas"])  # with decay 0.9 and 0.99
def test_wrong_decay_shows(code_base):
    reference = build(code_base)
    other = copied(reference)
    for norm in norms(other):
        norm.momentum = 0.11 - norm.momentum
    pairs = zip(trained_statistics(other), trained_statistics(reference), strict=True)
    assert max(relative(ours[-1], theirs[-1]) for ours, theirs in pairs) > 100 * TOLERANCE


@pytest.mark.reference
@pytest.mark.parametrize(("code_base", "times"), [("timm", 40), ("lukemelas", 4)])
def test_a_biased_variance_shows(code_base, times):
    reference = build(code_base)
    momentum = norms(reference)[0].momentum
    changes = []
    for count, before, after in trained_statistics(reference):
        kept = (1 - momentum) * before
        changes.append(relative(kept + (after - kept) * (count - 1) / count, after))
    assert max(changes) > times * TOLERANCE


@pytest.mark.reference
def test_rounding_is_far_below_the_tolerance(timm):
    double = copied(timm)
    double.model.double()
    assert logits_change(double, timm, MIXED) < TOLERANCE / 10


# The command.


def run(monkeypatch, capsys, results, *arguments):
    """Exit code and output with given results instead of comparisons; exceptions are raised."""

    def compare(code_base, variant):
        result = results[variant, code_base]
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(check_weights, "compare", compare)
    monkeypatch.setattr(check_weights, "free_memory", lambda programs: None)
    status = check_weights.main(list(arguments))
    return status, capsys.readouterr().out


def test_the_table_has_a_cell_for_each_pair(monkeypatch, capsys):
    good = Difference(3.2e-6, 1e-7)
    results = {("b0", "timm"): good, ("b0", "lukemelas"): good, ("lite0", "timm"): good}
    selection = ("--variants", "b0,lite0", "--code-bases", "timm,lukemelas")
    status, output = run(monkeypatch, capsys, results, *selection)
    assert status == 0
    assert "[1/3] b0 timm: logits 3.2e-06, statistics 1.0e-07 (0 s)\n" in output
    assert "| b0 | 3e-6 · 1e-7 | 3e-6 · 1e-7 |\n| lite0 | 3e-6 · 1e-7 | – |\n" in output
    assert "–: the code base has no such variant" in output


@pytest.mark.parametrize(
    ("result", "cell"),
    [
        (Difference(2e-4, 0.0), "**2e-4 · 0e+00**"),
        (Difference(0.0, float("nan")), "**0e+00 · nan**"),
        (ValueError("no such tensor"), "**error**"),
    ],
)
def test_a_bad_cell_fails_the_command(monkeypatch, capsys, result, cell):
    results = {("b0", "timm"): Difference(1e-6, 1e-6), ("b1", "timm"): result}
    selection = ("--variants", "b0,b1", "--code-bases", "timm")
    status, output = run(monkeypatch, capsys, results, *selection)
    assert status == 1
    assert f"| b1 | {cell} |" in output
    assert "| b0 | 1e-6 · 1e-6 |" in output
    assert "ValueError: no such tensor" in output or not isinstance(result, ValueError)


def test_an_unknown_name_is_reported_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        check_weights.main(["--variants", "b0,b9"])
    assert "'b9' is none of b0, b1, " in capsys.readouterr().err


def test_shapes_and_numbers_that_differ():
    assert relative(np.array([1.0, -4.0]), np.array([1.0, -5.0])) == 0.2
    assert np.isnan(relative(np.array([np.nan]), np.array([1.0])))
    with pytest.raises(ValueError, match=r"ours has the shape \(1,\), the reference has \(2,\)"):
        relative(np.zeros(1), np.ones(2))


def test_loading_needs_no_reference():
    path = packaged_weights("lite0")
    found = check_weights.measure_loading(path)
    assert (found["variant"], found["imported"]) == ("lite0", [])
    assert found["file"] == path.stat().st_size
    assert found["imports"] < found["peak"] < found["imports"] + 2e8
    assert found["seconds"] < 10


@pytest.mark.parametrize(
    ("changed", "is_within"),
    [
        ({}, True),
        ({"peak": 451e6}, False),
        ({"seconds": 3.1}, False),
        ({"seconds": 3.1, "variant": "b7"}, True),
        ({"imported": ["torch"]}, False),
    ],
)
def test_limits_of_loading(changed, is_within):
    found = {"variant": "b5", "seconds": 2.9, "file": 100e6, "imports": 200e6, "peak": 450e6}
    row, result = check_weights.loading_row("b5 .h5", {**found, "imported": [], **changed})
    assert result == is_within
    assert row.startswith("| b5 .h5 | 100 MB | ")
    assert row.endswith("|") == is_within
