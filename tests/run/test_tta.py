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
    assert len(alone) == len(views("crops", "h")) == 10
    assert np.std(alone, axis=0).min() > 1e-6  # every view counts

    augmented = with_views(run, "crops")
    assert augmented.config.model.image_size == side
    found = predicted(augmented, images)
    np.testing.assert_allclose(expit(found), expit(alone).mean(axis=0), rtol=1e-5)
    assert augmented.predict._cache_size() == 1


@pytest.mark.parametrize(("name", "count"), [("h", 2), ("hv", 4), ("d4", 8)])
def test_symmetric_views_are_all_images_of_the_symmetry(run, name, count):
    """Rotated and mirrored by NumPy, one prediction each; the last image of a batch as well."""
    run.config.augment = Augment(symmetry="d4")
    images = np.random.default_rng(0).integers(0, 256, (ROWS, SIZE, SIZE, 3), dtype=np.uint8)
    mirrored = images[:, :, ::-1]
    rotated = [np.rot90(kind, number, (1, 2)) for kind in (images, mirrored) for number in range(4)]
    wanted = {"h": (0, 4), "hv": (0, 2, 4, 6), "d4": range(8)}[name]
    alone = [predicted(run, rotated[number]) for number in wanted]
    assert len(alone) == len(views(name, "d4")) == count
    assert np.std(alone, axis=0).min() > 1e-6  # every view counts
    augmented = with_views(run, name)
    assert augmented.config == run.config
    found = predicted(augmented, images)
    np.testing.assert_allclose(expit(found), expit(alone).mean(axis=0), rtol=1e-5)


def test_one_view_is_the_run_itself(run):
    assert with_views(run, "none") is run
    assert views("none", "h").tolist() == [[0, 0, 0]]
    assert views("h", "h").tolist() == [[0, 0, 0], [0, 0, 1]]


def test_views_are_images_that_the_run_was_trained_on(run):
    with pytest.raises(ValueError, match=r"--tta d4: the run has .*=h, .* use --tta h or --tta"):
        with_views(run, "d4")
    with pytest.raises(ValueError, match=r"tta is 'flop'; it must be one of h, none, hv, d4, crop"):
        with_views(run, "flop")
    run.config.augment = Augment(symmetry="none")
    with pytest.raises(ValueError, match=r"--tta h: .* use --tta crops, which then uses no mirror"):
        with_views(run, "h")
    assert len(views("crops", "none")) == 5
    assert not views("crops", "none")[:, 2].any()


def test_the_mean_is_exact_where_sigmoids_are_not():
    rows = np.random.default_rng(0).normal(0, 4, (5, 3, 7))
    wanted = logit(expit(rows).mean(axis=0))
    np.testing.assert_allclose(of_mean_probability(rows.astype(np.float32)), wanted, rtol=1e-4)
    extreme = jnp.array([[[-100.0, 100.0]], [[-100.0, 100.0]]])
    np.testing.assert_allclose(of_mean_probability(extreme), [[-100.0, 100.0]], rtol=1e-6)
    one = jnp.array([[[0.3, -7.0]]])
    np.testing.assert_allclose(of_mean_probability(one), one[0], rtol=1e-5)
