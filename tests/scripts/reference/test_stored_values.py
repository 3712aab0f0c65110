"""The stored values of other implementations: ours equal them, and so do the live ones."""

import numpy as np
import pytest
from check_weights import TOLERANCE, outputs, relative, updated_statistics
from live_networks import case_values
from make_reference import FOLDER, LIVE, main
from network_files import CASES, CHANNELS, EVEN, ODD, images, is_statistic, shapes_of, write
from reference_models import CODE_BASES
from reference_weights import NUM_CLASSES
from stored_values import stored

from mlcls_jax.models.weights.convert import find_layout, to_tensors
from mlcls_jax.models.weights.load import load_pretrained

# Keras's variables have an __array__ from before NumPy 2, and it warns of HDF5.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
# Of the largest value: the same program on another CPU. An AMD EPYC differed by 1.01e-5.
LIVE_TOLERANCE = 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_our_network_computes_the_stored_values(case, tmp_path):
    """The files are drawn again; logits of even and odd sizes differ by their padding."""
    path = write(stored("networks"), case, tmp_path)
    pretrained = load_pretrained(path)
    assert (pretrained.variant, pretrained.num_classes) == (CASES[case].variant, NUM_CLASSES)
    for name, size in (("odd", ODD), ("even", EVEN)):
        expected = stored("networks")[f"{case}: logits {name}"]
        assert relative(outputs(pretrained, images(size)), expected) <= TOLERANCE, name
    trained = first_channels(pretrained, updated_statistics(pretrained, images(ODD)), case)
    for ours, expected in zip(trained, stored("networks")[f"{case}: trained"], strict=True):
        assert relative(ours, expected) <= TOLERANCE


def first_channels(pretrained, batch_stats, case):
    """Returns the first channels of our running statistics, in the order of the case's file."""
    names = [n for n in shapes_of(stored("networks"), CASES[case].weights) if is_statistic(n)]
    layout = find_layout(shapes_of(stored("networks"), CASES[case].weights))
    assert layout is not None
    variables = pretrained.variables | {"batch_stats": batch_stats}
    tensors = to_tensors(variables, pretrained.variant, layout)
    return np.stack([tensors[name][:CHANNELS] for name in names])


def test_every_code_base_has_a_case():
    assert {case.code_base for case in CASES.values()} == CODE_BASES.keys()
    for case in CASES.values():
        assert case.variant in CODE_BASES[case.code_base].variants


def test_all_files_are_used():
    assert {path.stem for path in FOLDER.glob("*.npz")} == LIVE.keys()


def assert_equal(live, name, only=""):
    """Compares live values with the stored ones; texts must be equal."""
    expected = {key: value for key, value in stored(name).items() if key.startswith(only)}
    assert live.keys() == expected.keys()
    for key, value in expected.items():
        if value.dtype.kind in "US":
            assert str(live[key]) == str(value), key
        else:
            atol = LIVE_TOLERANCE * np.abs(value).max()
            np.testing.assert_allclose(live[key], value, rtol=0, atol=atol, err_msg=key)


@pytest.mark.reference
@pytest.mark.parametrize("name", [name for name in LIVE if name != "networks"])
def test_stored_values_are_the_live_ones(name):
    assert_equal(LIVE[name](), name)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_stored_networks_are_the_live_ones(case):
    statistics = stored("networks")[f"{CASES[case].weights}: statistics"]
    assert_equal(case_values(case, statistics), "networks", f"{case}: ")


def test_the_command_writes_the_chosen_files(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(LIVE, "losses", lambda: {"a": np.arange(3.0)})
    main(["--only", "losses"], tmp_path)
    with np.load(tmp_path / "losses.npz") as file:
        np.testing.assert_array_equal(file["a"], np.arange(3.0))
    assert capsys.readouterr().out.startswith("wrote losses.npz: 1 arrays, ")
