"""The table of implementations: its rules, its mistakes, and what it changes in a program."""

import json

import jax
import jax.numpy as jnp
import pytest

from mlcls_jax.models import batch_norm
from mlcls_jax.models.ops import choice
from mlcls_jax.models.ops.depthwise import FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT, depthwise_conv


@pytest.fixture
def use_table(monkeypatch, tmp_path):
    """Returns a function that makes a table the one in use."""

    def use(table):
        path = tmp_path / "kernels.json"
        path.write_text(json.dumps(table) if isinstance(table, dict) else table)
        monkeypatch.setenv(choice.VARIABLE, str(path))
        choice.table.cache_clear()

    yield use
    choice.table.cache_clear()


def test_the_first_rule_that_fits_is_used(use_table):
    rules = [
        {"platform": "cuda", "dtype": "bfloat16", "min_channels": 64, "use": "pallas"},
        {"max_channels": 8, "use": "shifted_sum"},
        {"use": "native"},
    ]
    use_table({"depthwise": rules})

    def chosen(**facts):
        return choice.choose("depthwise", FORWARD, **facts)

    assert chosen(platform="cuda", dtype="bfloat16", channels=64) == "pallas"
    assert chosen(platform="cuda", dtype="float32", channels=64) == "native"
    assert chosen(platform="cuda", dtype="bfloat16", channels=8) == "shifted_sum"
    shipped = choice.choose("batch_norm_moments", batch_norm.MOMENTS, platform="cpu")
    assert shipped == "two_means"  # operations that the table lacks keep the shipped rules


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("{", "names a table of kernels"),
        ({"depthwyse": []}, "unknown operation 'depthwyse'"),
        ({"depthwise": [{"use": "cudnn"}]}, "unknown implementation 'cudnn'"),
        ({"depthwise": [{"width": 3, "use": "native"}]}, "unknown condition 'width'"),
        ({"depthwise": [{"platform": "tpu", "use": "native"}]}, "no rule fits"),
    ],
)
def test_a_mistake_in_the_table_is_named(use_table, table, words):
    use_table(table)
    with pytest.raises(ValueError, match=words) as caught:
        choice.choose("depthwise", FORWARD, platform="cpu", dtype="float32")
    assert "kernels.json" in str(caught.value)


def test_shipped_rules_name_known_implementations():
    known = {
        "depthwise": FORWARD,
        "depthwise_input_gradient": INPUT_GRADIENT,
        "depthwise_kernel_gradient": KERNEL_GRADIENT,
        "batch_norm_moments": batch_norm.MOMENTS,
    }
    for operation, implementations in known.items():
        assert {rule["use"] for rule in choice.table()[operation]} <= set(implementations)
    assert all("use" in rules[-1] and len(rules[-1]) == 1 for rules in choice.table().values())


def test_the_table_changes_the_program_of_a_platform(use_table):
    use_table({"depthwise": [{"platform": "cuda", "use": "shifted_sum"}, {"use": "native"}]})
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 4), (3, 3, 1, 4))]
    function = jax.jit(lambda x, kernel: depthwise_conv(x, kernel, 1))

    def convolves(platform):
        text = jax.export.export(function, platforms=[platform])(*shapes).mlir_module()
        return "stablehlo.convolution" in text

    assert not convolves("cuda")
    assert convolves("cpu") and convolves("tpu")


def test_both_kinds_of_moments_agree():
    x = jax.random.normal(jax.random.key(0), (3, 5, 7, 8), jnp.bfloat16) + 1
    two, one = (batch_norm.MOMENTS[name](x) for name in ("two_means", "one_reduction"))
    for got, expected in zip(one, two, strict=True):
        assert jnp.allclose(got, expected, rtol=1e-5)
