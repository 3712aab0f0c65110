"""The lowest versions that are tested are those that pyproject.toml states."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?(?:>=([0-9.]+))?")
# Not in the environment of the tests.
LEFT_OUT = {
    *("array-record", "gcsfs", "grain", "mlcls-jax", "s3fs"),
    *("tensorflow", "tensorflow-cpu", "tensorflow-datasets"),
    *("comet-ml", "huggingface-hub", "mlflow", "optuna", "trackio", "wandb"),
}
OF_DEVELOPERS = {"docs", "reference", "test"}  # extras


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def stated():
    """Returns the lower bound of each dependency of users that has one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra, needed in project["optional-dependencies"].items():
        lines += needed if extra not in OF_DEVELOPERS else []
    matches = [REQUIREMENT.match(line) for line in lines]
    bounds = {normalized(m[1]): m[2] for m in matches if m is not None and m[2]}
    return {name: bound for name, bound in bounds.items() if name not in LEFT_OUT}


def pinned():
    """Returns the versions of constraints-lowest.txt."""
    lines = (ROOT / "tests/constraints-lowest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normalized(name): version for name, version in pins}


def test_the_lowest_versions_are_the_tested_ones():
    pins = pinned()
    assert pins.pop("jaxlib") == pins["jax"]
    assert pins.pop("anyio") and pins.pop("pyparsing")  # of starlette and of matplotlib
    bounds = stated()
    assert pins.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert (pins[name] + ".0").startswith(bound + "."), f"{name}: {bound} or {pins[name]}"


def test_jax_alone_decides_the_version_of_jaxlib():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [line for line in project["dependencies"] if line.startswith("jaxlib")]
