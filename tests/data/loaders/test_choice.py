"""The loader of a run: the one that the config names, or the faster one by the table."""

import pytest

from mlcls_jax.config import Augment, Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.data.loaders.choice import choose_loader, rates
from mlcls_jax.data.loaders.loader import LOADERS
from mlcls_jax.data.readers.storage import Part

MANY = [f"{index}.jpg" for index in range(20_000)]
NAMED = Augment(rand_augment=0)


def chosen(cores=208, paths=MANY, size=224, augment=NAMED, has_tensorflow=True, **data):
    return choose_loader(Data(**data), augment, size, paths, cores, has_tensorflow)


def test_a_few_cores_are_fed_by_threads_and_many_by_tf_data():
    assert chosen(cores=2).name == "threads"
    assert chosen(cores=208).name == "tf_data"
    assert "208 cores, 224 px" in str(chosen(cores=208))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"has_tensorflow": False}, "TensorFlow is not installed"),
        ({"paths": MANY[:500]}, "500 images are too few"),
        ({"cache": "disk"}, "data.cache=disk"),
        ({"augment": Augment(interpolation="bicubic")}, "augment.interpolation=bicubic"),
        ({"loader": "threads"}, "data.loader=threads"),
    ],
)
def test_the_reason_for_threads_is_said(options, reason):
    choice = chosen(**options)
    assert choice.name == "threads" and reason in choice.reason


def test_single_files_of_a_bucket_are_read_by_tensorflow_if_it_can():
    for address, loader in (("gs://photos", "tf_data"), ("s3://photos", "threads")):
        paths = [f"{address}/{name}" for name in MANY]
        assert chosen(cores=2, paths=paths).name == loader
    for record, loader in ((None, "tf_data"), (3, "threads")):
        packed = [Part(f"gs://photos/{name}", "gs://photos/pack", 0, 10, record) for name in MANY]
        assert chosen(cores=2, paths=packed).name == loader


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match=r"pip install 'mlcls_jax\[tf_data\]'.*loader=threads"):
        chosen(loader="tf_data", has_tensorflow=False)
    with pytest.raises(ValueError, match=r"data\.service needs tensorflow"):
        chosen(service="grpc://host:5050", has_tensorflow=False)
    assert chosen(service="grpc://host:5050").name == "tf_data"


def test_rates_grow_with_the_cores_until_python_is_the_limit():
    for changes in (False, True):
        threads, tf_data = zip(*(rates(224, cores, changes) for cores in (2, 32, 208)), strict=True)
        assert threads[0] < threads[1] <= threads[2] and tf_data[0] < tf_data[1] <= tf_data[2]
        assert threads[2] < 2 * threads[1]
    assert rates(224, 208, False)[1] > 6 * rates(224, 32, False)[1]
    assert set(LOADERS) == {"threads", "tf_data", "grain"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"service": "host:5050"}, "must be an address such as grpc://10.0.0.2:5050"),
        ({"service": "grpc://h:1", "loader": "threads"}, "needs data.loader='tf_data'"),
        ({"loader": "tf_data", "cache": "memory"}, "which data.loader=tf_data does not read"),
        ({"service": "grpc://h:1", "cache": "disk"}, "which data.service=grpc://h:1 does not read"),
        ({"loader": "mine"}, "it must be one of auto, threads, tf_data, grain"),
    ],
)
def test_a_loader_that_cannot_do_what_is_asked_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        validate(Config(data=Data(**data)))


def test_bicubic_images_are_those_of_the_threads():
    config = Config(data=Data(loader="tf_data"), augment=Augment(interpolation="bicubic"))
    with pytest.raises(ValueError, match=r"data\.loader=tf_data resizes bilinearly"):
        validate(config)
