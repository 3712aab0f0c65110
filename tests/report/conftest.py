"""Draws the charts of reports, which other tests leave empty."""

import pytest

from mlcls_jax.report import charts

draw = charts._chart  # before the fixtures of a session


@pytest.fixture(scope="module", autouse=True)
def _charts_are_drawn():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "_chart", draw)
        yield
