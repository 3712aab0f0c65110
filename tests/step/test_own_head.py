"""Which outputs a head keeps from the run that it starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.models.ml_decoder import DecoderSize, MLDecoder
from mlcls_jax.step.own_head import Head, describe_reuse, reused_head

LETTERS = ("a", "b", "c", "d", "e")


def dense(classes: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {"kernel": rng.normal(size=(8, classes)), "bias": rng.normal(size=classes)}


def test_a_dense_head_keeps_the_columns_of_the_same_classes():
    source, target = Head(LETTERS[:3], None), Head(("c", "x", "a"), None)
    params, fresh = dense(3, 0), dense(3, 1)
    head, kept = reused_head(params, source, fresh, target)
    assert kept == ["c", "a"]
    for index, (values, column) in enumerate(((params, 2), (fresh, 1), (params, 0))):
        np.testing.assert_array_equal(head["kernel"][:, index], values["kernel"][:, column])
        np.testing.assert_array_equal(head["bias"][index], values["bias"][column])
    assert describe_reuse(source, target, kept) == "backbone, and the outputs of 2 of 3 classes"


def test_the_same_classes_in_another_order_keep_the_whole_head():
    source, target = Head(("a", "b"), None), Head(("b", "a"), None)
    head, kept = reused_head(dense(2, 0), source, dense(2, 1), target)
    np.testing.assert_array_equal(head["kernel"], dense(2, 0)["kernel"][:, ::-1])
    assert describe_reuse(source, target, kept) == "backbone and head (the same 2 classes)"


def decoder(classes: tuple[str, ...], groups: int, seed: int, width: int = 16):
    """A head with its Flax module and random parameters."""
    size = DecoderSize(groups, width)
    model = MLDecoder(len(classes), size)
    params = model.init(jax.random.key(seed), jnp.zeros((1, 2, 2, 8)))["params"]
    drawn = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases and norms away from 0 and 1
    return Head(classes, size), model, jax.device_get(drawn)


def logits(head, params: dict) -> dict[str, np.ndarray]:
    features = jax.random.normal(jax.random.key(9), (3, 2, 2, 8))
    rows = head[1].apply({"params": params}, features)
    return dict(zip(head[0].classes, np.asarray(rows).T, strict=True))


@pytest.mark.parametrize(
    ("classes", "groups", "kept", "said"),
    [
        (LETTERS, 3, [*LETTERS], "backbone and head (the same 5 classes)"),
        # b and a share a query, so they may change places; c and e may not.
        (("b", "a", "e", "d", "c"), 3, ["b", "a", "d"], "outputs of 3 of 5 classes; 2 others are"),
        (("a", "b", "x"), 2, ["a", "b"], "backbone and decoder, and the outputs of 2 of 3 classes"),
        (("x", "y"), 1, [], "backbone and decoder; the outputs of all 2 classes are new"),
        (("b", "a"), 2, ["b"], "1 others are there too, but belong to another query"),
    ],
)
def test_a_decoder_computes_the_same_logits_for_the_classes_that_it_keeps(
    classes, groups, kept, said
):
    source, target = decoder(LETTERS, 3, seed=0), decoder(classes, groups, seed=1)
    params, own = reused_head(source[2], source[0], target[2], target[0])
    assert own == kept
    assert said in describe_reuse(source[0], target[0], own)
    before, after = logits(source, source[2]), logits(target, params)
    for name in kept:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-5)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, target[2])


def test_a_head_of_another_kind_or_width_is_new():
    gap, narrow, wide = Head(LETTERS, None), decoder(LETTERS, 0, 0), decoder(LETTERS, 0, 0, 32)
    fresh = dense(5, 1)
    assert reused_head(narrow[2], narrow[0], fresh, gap) == (fresh, [])
    assert describe_reuse(narrow[0], gap, []) == (
        "backbone; the head is new, because model.head is gap, not mldecoder"
    )
    assert reused_head(narrow[2], narrow[0], wide[2], wide[0]) == (wide[2], [])
    assert "model.decoder_width is not 16 as there" in describe_reuse(narrow[0], wide[0], [])
