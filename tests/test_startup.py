"""The first variables of a run: whose head is drawn, and what is said of the network."""

import jax
import jax.numpy as jnp
import numpy as np

from mlcls_jax.config import Config, Model
from mlcls_jax.devices import make_mesh
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.lineages import IMAGENET
from mlcls_jax.models.pretrained import Pretrained
from mlcls_jax.programs import describe_network, variables_shape
from mlcls_jax.startup import initial_variables


def test_a_decoder_is_drawn_in_place_of_a_dense_layer(tiny, capsys):
    head = {"head": "mldecoder", "decoder_groups": 2, "decoder_width": 16}
    config, mesh = Config(model=Model(tiny, "file.h5", image_size=64, **head)), make_mesh(1)
    gap, shapes = Config(model=Model(tiny, image_size=64)), variables_shape(config, 3, mesh)
    of_file = jax.tree.map(lambda leaf: np.ones(leaf.shape), variables_shape(gap, 3, mesh))
    pretrained = Pretrained(EfficientNet(variant=tiny, num_classes=3), of_file, IMAGENET)
    merged = initial_variables(config, pretrained, shapes, mesh)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    drawn = merged["params"].pop("head")
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(merged))
    assert drawn["kernel"].shape == (2, 16, 2) and 0.1 < jnp.std(drawn["kernel"]) < 0.5
    np.testing.assert_array_equal(drawn["bias"], np.zeros(3))
    assert "new: head/* (22 arrays)" in capsys.readouterr().out


def test_the_header_says_which_head_there_is():
    assert describe_network(Config(), 80) == "EfficientNet b0, 224 px"
    config = Config(model=Model("lite0", head="mldecoder", decoder_groups=20))
    wanted = "EfficientNet lite0, 224 px, ML-Decoder with 20 queries"
    assert describe_network(config, 80) == wanted
