"""The Dockerfile: what the docs promise of the image, as far as it shows without building it."""

import re
from pathlib import Path

import pytest

from mlcls_jax import __version__

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
DOCS = (ROOT / "docs" / "distributed.md").read_text("utf-8")


def instructions(keyword: str) -> list[str]:
    """Returns the arguments of each instruction of a kind, continued lines joined."""
    joined = re.sub(r"\s*\\\n\s*", " ", TEXT)
    return re.findall(rf"^{keyword} (.*)$", joined, re.MULTILINE)


def test_the_image_runs_the_command_and_not_as_root():
    assert instructions("ENTRYPOINT") == ['["mlcls-jax"]']
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes needs a number for runAsNonRoot"
    assert TEXT.index("\nUSER ") > TEXT.index("pip install")


def test_the_cache_is_a_folder_that_every_user_may_write_to():
    (environment,) = instructions("ENV")
    assert "MLCLS_JAX_CACHE=/cache" in environment.split()
    assert any("--mode=1777 /cache" in command for command in instructions("RUN"))


def test_python_is_one_that_the_package_supports():
    version = re.search(r"^ARG PYTHON=(.*)$", TEXT, re.MULTILINE)
    classifiers = (ROOT / "pyproject.toml").read_text("utf-8")
    assert version and f'"Programming Language :: Python :: {version[1]}"' in classifiers


@pytest.mark.parametrize("word", ["docker build", "docker run", "apptainer build", "image: mlcls"])
def test_the_docs_name_the_image_of_this_version(word):
    lines = [line for line in DOCS.splitlines() if word in line]
    joined = re.sub(r"\s*\\\n\s*", " ", DOCS)
    assert (
        lines and f"mlcls-jax:{__version__}" in joined[joined.index(lines[0].rstrip(" \\")) :][:250]
    )


def test_the_build_sees_only_what_the_wheel_needs():
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert rules[0] == "*" and rules[-1] == "**/__pycache__"
    assert all((ROOT / rule.removeprefix("!")).exists() for rule in rules[1:-1])
