"""`import mlcls_jax`: lazy, without side effects, and the same names in any order of imports."""

import subprocess
import sys

import pytest

import mlcls_jax as ml

UNCHANGED = """
import warnings, logging, sys
import cv2, jax
from PIL import Image
import orbax.checkpoint as ocp

def settings():
    names = "jax_compilation_cache_dir", "jax_cpu_enable_async_dispatch"
    return (
        Image.MAX_IMAGE_PIXELS, cv2.getNumThreads(), list(warnings.filters), sys.excepthook,
        ocp.type_handlers.get_type_handler(jax.Array), [jax.config.values[name] for name in names],
        logging.getLogger().handlers[:],
    )

import matplotlib, tensorboardX, ml_collections.config_flags, pandas
import scipy.special, scipy.sparse, sklearn.metrics  # these have side effects of their own
before = settings()
import mlcls_jax as ml
for name in ml.__all__:
    getattr(ml, name)
after = settings()
assert after == before, [(a, b) for a, b in zip(after, before) if a != b]
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_imports_neither_jax_nor_numpy():
    assert python("import sys, mlcls_jax; print({'jax', 'numpy'} & {*sys.modules})") == "set()\n"


def test_importing_everything_changes_no_setting_of_the_process():
    python(UNCHANGED)


def test_functions_go_before_modules_of_their_name():
    code = "import mlcls_jax.train, mlcls_jax.config, mlcls_jax as ml; print(ml.train, ml.config)"
    assert python(code).count("<function ") == 2


def test_public_names():
    assert set(ml.__all__) <= set(dir(ml))
    assert all(getattr(ml, name) is getattr(ml, name) for name in ml.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = ml.fit


def test_no_handler_of_the_root_logger_is_left():
    code = "import logging, mlcls_jax as ml; ml.config('lite0'); print(logging.root.handlers)"
    assert python(code) == "[]\n"
