"""tf.data service: a dispatcher and two workers as processes on this machine."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.config import Augment
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, Rows, tf_module, train_batches
from mlcls_jax.data.readers.storage import Part

pytestmark = [pytest.mark.reference, pytest.mark.slow]

CHANGED = Augment(train_resize="random_crop", rand_augment=2)
STEPS = 40


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> LabelTable:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(24):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((100, 80)).save(folder / f"{index:02}.jpg")
    names = tuple(f"{index:02}.jpg" for index in range(24))
    labels = rng.integers(0, 2, (24, 3)).astype(np.int8)
    return LabelTable(str(folder), names, labels, ("a", "b", "c"))


def start(*options: str) -> tuple[subprocess.Popen, str]:
    """Starts a server by the command, and returns it with the address that it prints."""
    server = subprocess.Popen(
        [sys.executable, "-m", "mlcls_jax.data_worker", *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    line = server.stdout.readline()
    match = re.search(r"(dispatcher|worker) at (?:grpc://)?(\S+?)[;,]", line)
    assert match, line
    return server, match[2]


@pytest.fixture
def service():
    """The address of a dispatcher, and its two workers."""
    servers = []
    try:
        dispatcher, address = start("--dispatcher", "--port", "0")
        servers.append(dispatcher)
        port = address.rpartition(":")[2]
        servers += [start("--join", f"127.0.0.1:{port}")[0] for _ in range(2)]
        yield f"grpc://127.0.0.1:{port}", servers[1:]
    finally:
        for server in servers:
            server.kill()
            server.wait()
            server.stdout.close()


def batches(table, reader, first=3, last=STEPS):
    rows = Rows(8, 0, 8)
    options = {"rows": rows, "size": 64, "augment": CHANGED, "seed": 1, "reader": reader}
    return train_batches(table, first_step=first, last_step=last, **options)


def test_the_stream_is_that_of_one_process_also_when_a_worker_is_killed(
    table, service, monkeypatch
):
    address, workers = service
    monkeypatch.setattr(tf_module("tf_service"), "PATIENCE", 3.0)
    expected = list(batches(table, Reader(loader="tf_data")))
    equal = 0
    for step, batch in enumerate(batches(table, Reader(loader="tf_data", service=address))):
        np.testing.assert_array_equal(batch.label, expected[step].label)
        np.testing.assert_array_equal(batch.position, expected[step].position)
        equal += bool((batch.image == expected[step].image).all())
        if step == 10:
            workers[0].kill()
        time.sleep(0.05)
    assert step == len(expected) - 1
    assert equal > 20  # the others were lost, and made by the threads


def test_a_service_that_is_not_there_is_named(table):
    reader = Reader(loader="tf_data", service="grpc://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"data\.service=grpc://127\.0\.0\.1:1.*does not answer"):
        next(batches(table, reader))


def test_images_that_workers_cannot_read_are_named(table):
    part = Part("photo.jpg", "photos.array_record", 0, 10, record=3)
    packed = LabelTable("", ("a",), np.zeros((1, 3), np.int8), table.classes, sources={"a": part})
    reader = Reader(loader="tf_data", service="grpc://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"photo\.jpg cannot be read by its workers"):
        next(batches(packed, reader))
