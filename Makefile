PYTHON ?= python3
BIN := .venv/bin
JAX2ONNX := 'jax2onnx>=0.17.1,<0.18'

.PHONY: demo docs test test-slow test-reference test-lowest
# For the tests that train in their own process; a command sets it itself (docs/performance.md).
test test-slow test-reference test-lowest: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736
# Processes that tests start would otherwise compile their imports again: a third of the time.
test test-slow test-reference test-lowest: export PYTHONDONTWRITEBYTECODE :=
demo: .venv/demo.installed
	$(BIN)/mlcls-jax demo
	$(BIN)/mlcls-jax train --config configs/demo.py --workdir runs/demo
	$(BIN)/mlcls-jax evaluate --workdir runs/demo --split val
	$(BIN)/mlcls-jax predict --workdir runs/demo $$(ls data/demo/images/val*.jpg | head -3)

test: .venv/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -m 'not slow'

# The tests that train several runs, or start several processes, to compare them.
test-slow: .venv/test.installed
	$(BIN)/pytest -m slow

# The pages of docs/ as a site, in site/.
docs: .venv/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The tests that compare with other implementations, which are several gigabytes.
test-reference: .venv/reference.installed
	$(BIN)/pyright
	$(BIN)/pytest --reference

# The fast tests with the lowest versions that pyproject.toml states.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest -m 'not slow'

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and "Python 3.11 to 3.14 is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# Without --no-compile, pip would write bytecode of everything, a fifth of the size.
.venv/%.installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$*]'
	touch $@

# jax2onnx pins an older Orbax than the tests need (docs/export.md), so it is installed without
# its dependencies.
.venv/reference.installed: pyproject.toml .venv/test.installed
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[test,reference]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps $(JAX2ONNX)
	touch $@

.venv-lowest/installed: pyproject.toml tests/constraints-lowest.txt
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --no-compile --constraint tests/constraints-lowest.txt --editable '.[test]'
	touch $@
