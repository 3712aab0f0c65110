"""What the header of a run warns of."""

import jax.numpy as jnp

from mlcls_jax.training.run_summary import warn_if_slow


def test_bfloat16_on_a_cpu_is_warned_of(capsys):
    warn_if_slow(jnp.dtype("float32"))
    assert not capsys.readouterr().out
    warn_if_slow(jnp.dtype("bfloat16"))
    assert "auto, is float32 here" in capsys.readouterr().out
