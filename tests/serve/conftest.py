"""A service over an untrained run."""

import pytest

from mlcls_jax.serve.limits import Limits
from mlcls_jax.serve.service import Service


@pytest.fixture(scope="module")
def service(run):
    """A service with small limits; on eight devices its batches have 8 and 16 rows."""
    limits = Limits(image_bytes=100_000, body_bytes=300_000, images=4, places=20)
    service = Service(run, limits)
    service.batcher.seconds = dict.fromkeys(service.batcher.seconds, 1.0)  # whatever the machine
    return service
