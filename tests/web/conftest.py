"""A run that was never trained, behind a page."""

import jax
import jax.numpy as jnp
import pytest

from mlcls_jax.config import Config, Data, Model
from mlcls_jax.decisions import Decisions
from mlcls_jax.devices import make_mesh, replicate
from mlcls_jax.models.lineages import KERAS, LITE, Origin
from mlcls_jax.models.variants import VARIANTS, Variant
from mlcls_jax.programs import build_model
from mlcls_jax.train_step import make_eval_step
from mlcls_jax.web.service import Limits, Service
from mlcls_jax.workdir import Run

NAMES = ("<img src=x onerror=alert(1)>", "green", "blue")  # as a CSV could call them


@pytest.fixture(scope="module")
def run():
    """A tiny network with random weights, its thresholds below and above all it will say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True))
        config = Config(data=Data(eval_batch_size=8), model=Model(variant="tiny", image_size=64))
        origin = Origin(KERAS, LITE)
        model, mesh = build_model(config, len(NAMES), origin.lineage), make_mesh()
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        yield Run(
            config,
            NAMES,
            {"step": 1, "phase": "head"},
            replicate(variables, mesh),
            origin,
            Decisions(None, (0.01, 0.99, 0.5), (1.0, 2.0, 1.0)),
            make_eval_step(model, origin.normalization, mesh),
            mesh,
        )


@pytest.fixture(scope="module")
def service(run):
    """Of small limits; on eight devices its batches have 8 and 16 rows."""
    limits = Limits(picture_bytes=100_000, body_bytes=300_000, pictures=4, places=20)
    service = Service(run, limits)
    service.batcher.seconds = dict.fromkeys(service.batcher.seconds, 1.0)  # whatever the machine
    return service
