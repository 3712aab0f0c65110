"""Lists the packages of the wheel; everything else about it is in pyproject.toml."""

from setuptools import find_packages, setup

# The configs lie at the top of a checkout, where users read and copy them, and the wheel has the
# same files as mlcls_jax.configs. mlcls_jax/config/named.py finds them in both places.
CONFIGS = "mlcls_jax.configs"
# Files without Python.
TEMPLATES = ["mlcls_jax.report.templates", "mlcls_jax.serve.templates"]

setup(
    packages=[*find_packages(include=["mlcls_jax", "mlcls_jax.*"]), CONFIGS, *TEMPLATES],
    package_dir={CONFIGS: "configs"},
)
