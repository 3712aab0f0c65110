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
from mlcls_jax.startup import initial_variables, random_variables


def test_a_decoder_is_drawn_in_place_of_a_dense_layer(tiny, capsys):
    """As without weights, from the seed alone; the backbone is that of the file."""
    head = {"head": "mldecoder", "decoder_groups": 2, "decoder_width": 16}
    config, mesh = Config(model=Model(tiny, "file.h5", image_size=64, **head)), make_mesh(1)
    model = EfficientNet(variant=tiny, num_classes=3)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 64, 64, 3))))
    pretrained = Pretrained(model, dict(variables), IMAGENET)
    merged = initial_variables(config, pretrained, variables_shape(config, 3, mesh), mesh)
    drawn, params = random_variables(config, 3, mesh)["params"], merged["params"]
    for got, wanted in (
        (params["head"], drawn["head"]),
        (params["backbone"], variables["params"]["backbone"]),
        (merged["batch_stats"], variables["batch_stats"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert params["head"]["kernel"].shape == (2, 16, 2) and params["head"]["bias"].shape == (3,)
    assert "new: head/* (22 arrays)" in capsys.readouterr().out


def test_the_header_says_which_head_there_is():
    assert describe_network(Config(), 80) == "EfficientNet b0, 224 px"
    config = Config(model=Model("lite0", head="mldecoder", decoder_groups=20))
    wanted = "EfficientNet lite0, 224 px, ML-Decoder with 20 queries"
    assert describe_network(config, 80) == wanted
