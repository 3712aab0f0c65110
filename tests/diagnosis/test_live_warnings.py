"""Each warning is given once for a run made to deserve it, and never for a good run."""

import re
from typing import Any

import numpy as np
import pytest

from mlcls_jax.config import Config, Group, Phase
from mlcls_jax.diagnosis.live_rules import EQUAL
from mlcls_jax.diagnosis.live_warnings import logit_spread, warnings

HEAD = Phase("head", "6 epochs", [Group("head/.*", 1e-2)])
GOOD = [  # train loss, val loss, val mAP; of a head, and of fine-tuning after it
    *((0.42, 0.33, 0.5), (0.31, 0.29, 0.6), (0.28, 0.28, 0.65), (0.27, 0.275, 0.68)),
    *((0.262, 0.27, 0.7), (0.265, 0.268, 0.71), (0.258, 0.269, 0.7), (0.01, 0.27, 0.7)),
    *((0.012, 0.272, 0.7), (0.009, 0.27, 0.7), (0.013, 0.27, 0.7)),
]


def records_of(rows, every=1.0, loss_name="bce", spread=1.0, phase="head") -> list[dict[str, Any]]:
    """Records of evaluations; the base rate has loss 0.34 and mAP 0.3."""
    return [
        {
            "phase": phase,
            "epoch": every * (i + 1),
            "loss_name": loss_name,
            "train_loss": train,
            "val": {"loss": val, "mAP": mean},
            "base_rate": {"loss": 0.34, "mAP": 0.3},
            "logit_spread": spread,
        }
        for i, (train, val, mean) in enumerate(rows)
    ]


def given(records, phase=HEAD, index=0) -> dict[int, list[str]]:
    """The warnings after each evaluation by its position, if there are any."""
    texts = {i: warnings(records[: i + 1], phase, index) for i in range(len(records))}
    return {i: warned for i, warned in texts.items() if warned}


def losses(*train) -> list[tuple[float, float, float]]:
    return [(loss, 0.3, 0.6) for loss in train]


@pytest.mark.parametrize(
    "records",
    [
        records_of(GOOD),
        records_of(GOOD, every=0.25),
        records_of(GOOD[:1]),
        # Batch normalisation that trains starts from statistics of other images, and settles.
        records_of([(0.54, 2.14, 0.49), (0.4, 0.96, 0.79), (0.24, 0.31, 0.92)]),
        records_of([(0.76, 0.63, 0.42), (0.53, 0.33, 0.44)]),
        # Losses that move the probabilities on purpose; evaluations after few images.
        records_of([(0.9, 0.8, 0.6), (0.8, 0.8, 0.7)], loss_name="weighted bce"),
        records_of(losses(0.3, 0.4, 0.3, 0.4, 0.3, 0.4), every=0.1),
        records_of(losses(0.9, 0.3, 0.5, 0.3, 0.31)),  # one rise
        records_of([(0.4, 0.4, 0.3)], every=0.9),
        records_of([(np.nan, np.nan, np.nan)] * 3),
    ],
)
def test_a_good_run_has_no_warning(records):
    assert not given(records)


def test_a_loss_above_the_base_rate_has_its_cause_by_the_training_loss():
    far = given(records_of([(2.06, 1.76, 0.5), (1.5, 1.1, 0.5), (0.9, 0.7, 0.5), (0.6, 0.6, 0.5)]))
    ((text,),) = far.values()
    assert list(far) == [0]
    assert text.startswith(
        "val loss 1.7600 is above 0.3400, the loss of the class frequencies alone, "
    )
    assert "so is the training loss, 2.0600: the learning rate is too high" in text
    assert text.endswith("Try '--config.phases[0].groups[0].learning_rate=0.001'")
    stays = given(records_of([(0.4, 0.4, 0.5), (0.39, 0.39, 0.5), (0.38, 0.4, 0.5)]))
    assert list(stays) == [1] and "so is the training loss, 0.3900" in stays[1][0]
    memorises = records_of([(0.1, 0.4, 0.5), (0.05, 0.45, 0.5)])
    ((text,),) = given(memorises).values()
    assert "the network memorises the images" in text and "[0].weight_decay=0.01'" in text
    lagging = Phase("head", "6 epochs", HEAD.groups, batch_norm="train")
    ((text,),) = given(memorises, lagging, 2).values()
    assert text.endswith(
        "lag behind, or the network memorises the images. "
        "Try '--config.phases[2].batch_norm=frozen'"
    )


@pytest.mark.parametrize("mean", [0.2, 0.3, 0.33])
def test_map_at_the_base_rate(mean):
    found = given(records_of([(0.34, 0.34, mean)] * 3))
    ((text,),) = found.values()
    assert list(found) == [0]
    assert (
        f"val mAP {mean:.4f} is no better than 0.3000, that of a constant prediction, after 1 e"
        in text
    )
    assert "the labels do not match the images" in text and "--phase head" in text


def test_equal_predictions():
    ((text,),) = given(records_of(GOOD, spread=0.9 * EQUAL)).values()
    assert text.startswith("predictions are the same for all images: their logits differ by 0.018")
    assert "normalised twice" in text and "--config.model.weights=imagenet" in text
    equal = np.tile([[0.0, -3.0, 1e3]], (7, 1)).astype(np.float32)
    assert logit_spread(equal) == 0
    equal[:, 0] += 9 * np.arange(7)  # one class that differs, of three
    assert logit_spread(equal) == 0
    drawn = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    assert logit_spread(drawn) == pytest.approx(1, abs=0.05)


def test_a_rate_that_oscillates():
    # Adam at 0.01 on a flattened feature map: docs/keras_baseline.csv, from epoch 7 on.
    asked = (0.422, 0.493, 0.499, 0.524, 0.492, 0.43, 0.413, 0.453, 0.41, 0.447, 0.434, 0.391)
    found = given(records_of(losses(*asked, 0.387, 0.488, 0.449, 0.4)))
    ((text,),) = found.values()
    assert list(found) == [13]
    assert "up and down by more than 10% (0.4220, 0.5240, 0.3870, 0.4880 among" in text
    assert "learning_rate=0.001'" in text and "mlcls_jax.lr_find --phase head" in text
    # For another loss, the rise is a share of that loss.
    assert not given(records_of(losses(4, 4.3, 4, 4.3, 4), loss_name="weighted bce"))
    assert given(records_of(losses(4, 4.6, 4, 4.6, 4), loss_name="weighted bce"))


def test_each_phase_has_its_own_warnings():
    head = records_of([(2.0, 2.0, 0.3)] * 2)
    tail = records_of([(2.0, 2.0, 0.3)] * 2, phase="tail")
    assert len(warnings(head[:1], HEAD, 0)) == 2 and not warnings(head, HEAD, 0)
    phase = Phase("tail", "2 epochs", [Group("head/.*", 1e-3), Group("backbone/.*", 5e-4)])
    above, _ = warnings([*head, *tail[:1]], phase, 1)
    assert "groups[0].learning_rate=0.0001' '--config.phases[1].groups[1].learning_rate=5e-05'" in (
        above
    )
    assert not warnings([*head, *tail], phase, 1)


def test_the_overrides_are_fields_of_the_config():
    records = records_of([(0.1, 0.4, 0.3)] * 2, spread=0.0)
    lagging = Phase("head", "6 epochs", HEAD.groups, batch_norm="train")
    of_each = [*given(records).values(), *given(records, lagging).values()]
    paths = set(re.findall(r"--config\.([^=]+)=", str(of_each)))
    assert len(paths) == 5
    for path in paths:
        node: Any = Config()
        for name in re.findall(r"\w+", path):
            node = node[int(name)] if name.isdigit() else getattr(node, name)
