"""Weights on the Hugging Face Hub, named as "hf-hub:user/name" or "hf-hub:user/name@revision".

The package huggingface_hub downloads them, with its cache and its variables: HF_TOKEN, HF_ENDPOINT,
HF_HUB_OFFLINE, HF_HOME.  A branch is resolved to its commit, which names the folder in the cache.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from mlcls_jax.system.console import one_line

PREFIX = "hf-hub:"
PACKAGE = "huggingface_hub"
INSTALL = "pip install 'mlcls_jax[hub]'"
# What is read of a repository; timm's own have further files with the same weights.
FILES = ("config.json", "model.safetensors")
_NAME = re.compile(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([^\s@]+))?")
_FILE_URL = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

T = TypeVar("T")


@dataclass(frozen=True)
class HubName:
    """A repository of the Hub.

    Attributes:
        repo: such as "timm/tf_efficientnet_b0.in1k".
        revision: a branch, a tag or a commit; "" for the main branch.
    """

    repo: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub(name: str) -> bool:
    """Returns whether a string names a repository of the Hub."""
    return name.startswith(PREFIX)


def hub_name(name: str) -> HubName:
    """Returns the repository that a name stands for.

    Raises:
        ValueError: it is not written like one.

    >>> hub_name("hf-hub:me/birds@v2")
    HubName(repo='me/birds', revision='v2')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name} names no repository of the Hugging Face Hub; write {PREFIX}user/name, or "
            f"{PREFIX}user/name@revision"
        )
    return HubName(match[1], match[2] or "")


def check_hub(name: str) -> None:
    """Checks the form of a name, and that the Hub's package is installed, without importing it.

    Raises:
        ValueError: one of them is wrong.
    """
    hub_name(name)
    if find_spec(PACKAGE) is None:
        raise ValueError(f"{name} needs {PACKAGE}; run: {INSTALL}")


def hub_folder(name: str, files: Sequence[str] = FILES) -> tuple[Path, HubName]:
    """Returns a folder with files of a repository, and its name with the commit as revision.

    Args:
        name: of the repository.
        files: to download; those that it lacks are left out.

    Raises:
        ValueError: the package is missing, the repository or revision does not exist or is not
            accessible, or the Hub cannot be reached and the cache has no copy.
    """
    check_hub(name)
    asked = hub_name(name)

    def download(hub: Any) -> str:
        return hub.snapshot_download(
            asked.repo, revision=asked.revision or None, allow_patterns=list(files)
        )

    folder = Path(on_hub(name, download))
    return folder, HubName(asked.repo, folder.name)


def hub_file_of(url: str) -> tuple[HubName, str] | None:
    """Returns the repository and the file of an address on the Hub; None for another address.

    >>> hub_file_of("https://huggingface.co/timm/b0.in1k/resolve/main/model.safetensors")
    (HubName(repo='timm/b0.in1k', revision='main'), 'model.safetensors')
    """
    match = _FILE_URL.fullmatch(url)
    return (HubName(match[1], match[2]), match[3]) if match else None


def download_from_hub(name: HubName, file: str) -> Path:
    """Returns the local copy of one file of a repository.

    Raises: as `hub_folder`.
    """

    def download(hub: Any) -> str:
        return hub.hf_hub_download(name.repo, file, revision=name.revision or None)

    return Path(on_hub(str(name), download))


def on_hub(name: str, ask: Callable[[Any], T]) -> T:
    """Returns what a function of the package huggingface_hub returns.

    Args:
        name: what is asked for, for messages.
        ask: called with the package.

    Raises:
        ValueError: the Hub refuses or cannot be reached; one line that says what to do.
    """
    import huggingface_hub  # pyright: ignore[reportMissingImports]
    from huggingface_hub import errors  # pyright: ignore[reportMissingImports]

    try:
        return ask(huggingface_hub)
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise ValueError(f"{name}: {_advice(error, errors)}") from error
    except Exception as error:  # of the HTTP library, which differs between versions
        if type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "requests", "httpx2"):
            raise
        raise ValueError(f"{name}: the Hub cannot be reached ({one_line(error, 200)})") from error


def _advice(error: Exception, errors: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; check what follows the @"
    if isinstance(error, errors.GatedRepoError):
        return (
            "access is granted on its page only; ask there, and set HF_TOKEN or run hf auth login"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return (
            "there is no such repository, or it is private or not yours; check the name, and set "
            "HF_TOKEN or run hf auth login"
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return "the repository has no such file"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            "the Hub cannot be reached (or HF_HUB_OFFLINE is set), and its cache has no copy; "
            "check the network and HF_ENDPOINT"
        )
    return one_line(error, 300)
