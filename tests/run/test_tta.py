"""Views of images: their positions, and that the prediction is the mean over single views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from mlcls_jax.config import Augment, Config, Model
from mlcls_jax.evaluation.decision_rule import untuned_rule
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.run.tta import MARGIN, of_mean_probability, views, with_views
from mlcls_jax.step.train_step import make_eval_step
from mlcls_jax.system.devices import make_mesh, replicate, sharded

SIZE, ROWS, CLASSES = 32, 8, ("a", "b", "c")


@pytest.fixture
def run(tiny) -> TrainedModel:
    model, mesh = EfficientNet(variant=tiny, num_classes=len(CLASSES)), make_mesh(8)
    drawn = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    config = Config(model=Model(tiny, image_size=SIZE))
    return TrainedModel(
        config=config,
        classes=CLASSES,
        metadata={},
        variables=replicate(dict(drawn), mesh),
        pretrained_config=PretrainedConfig(KERAS, IMAGENET),
        decision_rule=untuned_rule(CLASSES),
        predict=make_eval_step(model, IMAGENET, mesh),
        mesh=mesh,
    )


def predicted(run: TrainedModel, images: np.ndarray) -> np.ndarray:
    on_devices = jax.device_put(np.ascontiguousarray(images), sharded(run.mesh))
    return np.asarray(run.predict(run.variables, on_devices))


def test_the_probability_is_the_mean_of_those_of_the_views(run):
    side = SIZE + MARGIN
    images = np.random.default_rng(0).integers(0, 256, (ROWS, side, side, 3), dtype=np.uint8)
    places = [(top, left) for top in (0, MARGIN) for left in (0, MARGIN)]
    places.append((MARGIN // 2, MARGIN // 2))
    crops = [images[:, top : top + SIZE, left : left + SIZE] for top, left in places]
    alone = [predicted(run, x) for crop in crops for x in (crop, crop[:, :, ::-1])]
    assert len(alone) == len(views("crops", flip=True)) == 10
    assert np.std(alone, axis=0).min() > 1e-6  # every view counts

    augmented = with_views(run, "crops")
    assert augmented.config.model.image_size == side
    found = predicted(augmented, images)
    np.testing.assert_allclose(expit(found), expit(alone).mean(axis=0), rtol=1e-5)
    assert augmented.predict._cache_size() == 1


def test_one_view_is_the_run_itself(run):
    assert with_views(run, "none") is run
    assert views("none", flip=True).tolist() == [[0, 0, 0]]
    assert views("flip", flip=True).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert with_views(run, "flip").config == run.config


def test_a_run_without_flips_has_no_mirrored_views(run):
    run.config.augment = Augment(flip=False)
    with pytest.raises(ValueError, match=r"--tta flip: .* use --tta crops"):
        with_views(run, "flip")
    assert len(views("crops", flip=False)) == 5
    assert not views("crops", flip=False)[:, 2].any()


def test_the_mean_is_exact_where_sigmoids_are_not():
    rows = np.random.default_rng(0).normal(0, 4, (5, 3, 7))
    wanted = logit(expit(rows).mean(axis=0))
    np.testing.assert_allclose(of_mean_probability(rows.astype(np.float32)), wanted, rtol=1e-4)
    extreme = jnp.array([[[-100.0, 100.0]], [[-100.0, 100.0]]])
    np.testing.assert_allclose(of_mean_probability(extreme), [[-100.0, 100.0]], rtol=1e-6)
    one = jnp.array([[[0.3, -7.0]]])
    np.testing.assert_allclose(of_mean_probability(one), one[0], rtol=1e-5)
