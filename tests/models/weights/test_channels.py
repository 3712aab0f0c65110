"""Stems for images with other channels than RGB, compared with timm's."""

import numpy as np
import pytest
from reference_torch import import_torchvision

from mlcls_jax.models.conventions import HALF, IMAGENET, Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.weights.convert import adapt_stem, variable_shapes, with_stem
from mlcls_jax.models.weights.load import load_pretrained
from mlcls_jax.models.weights.save import save_timm, timm_builder

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32)
SIZE = 64


def test_one_channel_adds_the_kernels():
    np.testing.assert_allclose(adapt_stem(KERNEL, 1)[:, :, 0], KERNEL.sum(axis=2))
    assert adapt_stem(KERNEL, 3) is KERNEL


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_more_channels_repeat_the_kernels_and_keep_the_size(channels):
    adapted = adapt_stem(KERNEL, channels)
    for channel in range(channels):
        expected = KERNEL[:, :, channel % 3] * 3 / channels
        np.testing.assert_allclose(adapted[:, :, channel], expected, rtol=1e-6)


def test_the_normalisation_follows_the_kernels():
    assert HALF.for_channels(1) == Normalization((127.5,), (127.5,))
    four = IMAGENET.for_channels(4)
    assert four.mean == (*IMAGENET.mean, IMAGENET.mean[0]) and four.for_channels(4) is four
    assert IMAGENET.for_channels(1).std[0] == pytest.approx(np.mean(IMAGENET.std))
    with pytest.raises(ValueError, match=r"4 channels .* set model\.in_channels=4"):
        four.for_channels(3)


def shapes_of(channels):
    return with_stem(variable_shapes(EfficientNet(variant="b0", num_classes=5)), channels)


def test_weights_of_another_number_of_channels_are_refused(tmp_path):
    variables = random_variables(4)
    path = save_timm(tmp_path, variables, "b0")
    path = path.rename(tmp_path / "efficientnet_b0.ra_in1k.safetensors")
    again = load_pretrained(path, "b0", shapes_of(4))
    stem = again.variables["params"]["backbone"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(stem, variables["params"]["backbone"]["stem"]["conv"]["kernel"])
    assert len(again.normalization.mean) == 4
    with pytest.raises(ValueError, match=r"with 4 channels, but model\.in_channels is 3"):
        load_pretrained(path, "b0", shapes_of(3))


def random_variables(channels):
    from flax.traverse_util import unflatten_dict

    rng = np.random.default_rng(0)
    return unflatten_dict(
        {
            path: np.abs(rng.normal(0.5, 0.1, shape)).astype(np.float32)
            for path, shape in shapes_of(channels).items()
        }
    )


def test_timm_is_told_the_channels():
    from mlcls_jax.models.conventions import TIMM

    assert timm_builder("b0", TIMM, 5, 4).arguments == {"num_classes": 5, "in_chans": 4}


@pytest.mark.reference
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_logits_are_those_of_timm(tmp_path, channels):
    import_torchvision()
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path / "efficientnet_b0.ra_in1k.safetensors"
    save_file(timm.create_model("efficientnet_b0").state_dict(), path)
    theirs = timm.create_model(
        "efficientnet_b0",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        in_chans=channels,
    ).eval()
    ours = load_pretrained(path, "b0", shapes_of(channels))
    x = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, channels)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    got = np.asarray(ours.model.apply(ours.variables, x, train=False))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
