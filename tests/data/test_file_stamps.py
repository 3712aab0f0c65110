"""Sizes, times and sampled contents of image files."""

import os

import numpy as np
import pytest

from mlcls_jax.data import file_stamps as module
from mlcls_jax.data.file_stamps import SAMPLED, SAMPLED_FAR, file_stamps, sampled_contents
from mlcls_jax.data.readers.storage import Part


def write_files(folder, count):
    paths = [str(folder / f"{number}.jpg") for number in range(count)]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(b"x" * (number + 1))
        os.utime(path, ns=(0, 1_000 * number))
    return paths


def test_stamps_are_sizes_and_times_and_a_missing_file_has_none(tmp_path):
    paths = write_files(tmp_path, 20)
    os.remove(paths[3])
    part = Part("a/b.jpg", paths[5], offset=2, size=3)
    far = ["gs://bucket/a.jpg", Part("c.jpg", "s3://bucket/shard", offset=0, size=7)]
    expected = [[number + 1, 1_000 * number] for number in range(20)]
    expected[3] = [-1, -1]
    expected += [[3, 5_000], [-1, -1], [7, -1]]  # of the part, the time of its shard
    np.testing.assert_array_equal(file_stamps([*paths, part, *far], 2), expected)


def test_files_for_which_there_is_no_time_have_no_stamps(tmp_path):
    assert (file_stamps(write_files(tmp_path, 3), 1, seconds=-1) == -1).all()


@pytest.mark.parametrize("count", [1, 2, SAMPLED, SAMPLED + 1, 3 * SAMPLED + 5])
def test_contents_are_sampled_from_the_first_to_the_last_image(tmp_path, count):
    paths = write_files(tmp_path, count)
    digests = sampled_contents(paths, 2, 60)
    assert len(digests) == len(set(digests.values())) == min(count, SAMPLED)
    assert {0, count - 1} <= digests.keys()


def test_of_images_in_a_bucket_few_are_read(monkeypatch):
    read = []
    monkeypatch.setattr(module, "read_file", lambda path: read.append(path) or path.encode())
    assert len(sampled_contents([f"gs://b/{number}" for number in range(1000)], 2, 60)) == 8
    assert len(read) == SAMPLED_FAR
    assert sampled_contents([], 1, 60) == {}


def test_an_image_that_cannot_be_read_is_left_to_the_run(tmp_path):
    paths = write_files(tmp_path, 3)
    os.remove(paths[1])
    assert sampled_contents(paths, 1, 60).keys() == {0, 2}
