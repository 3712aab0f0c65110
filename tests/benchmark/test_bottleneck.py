"""The bottleneck for a table of cases, and the advice that goes with it."""

from dataclasses import replace

import pytest

from mlcls_jax.benchmark.bottleneck import Parts, Setting, find_bottleneck

GPU = Setting(
    cpu=False,
    keeps_heap=False,
    compute_dtype="bfloat16",
    cache="none",
    peak_share=0.5,
)
CPU = replace(GPU, cpu=True, keeps_heap=True, compute_dtype="float32")


@pytest.mark.parametrize(
    ("parts", "setting", "bound"),
    [
        (Parts(compute=0.10, input=0.02, host=0.001, train=0.10), GPU, "compute"),
        (Parts(compute=0.02, input=0.10, host=0.001, train=0.10), GPU, "input"),
        (Parts(compute=0.001, input=0.002, host=0.005, train=0.005), GPU, "host"),
        (Parts(compute=0.10, input=0.02, host=0.001, train=0.12), CPU, "compute"),
        (Parts(compute=0.02, input=0.10, host=0.001, train=0.12), CPU, "input"),
        (Parts(compute=0.001, input=0.002, host=0.005, train=0.008), CPU, "host"),
    ],
)
def test_the_longest_part_bounds(parts, setting, bound):
    bottleneck = find_bottleneck(parts, setting)
    assert bottleneck.bound == bound
    assert bottleneck.why.startswith(bound)
    assert f"end to end {parts.train * 1e3:.3g} ms" in bottleneck.why
    assert "measure again" not in bottleneck.why and "do not explain" not in bottleneck.why
    assert bottleneck.change


def test_on_a_cpu_times_add_up_and_a_long_second_part_gets_advice():
    long = find_bottleneck(Parts(compute=0.10, input=0.06, host=0.001, train=0.16), CPU)
    short = find_bottleneck(Parts(compute=0.10, input=0.04, host=0.001, train=0.14), CPU)
    apart = find_bottleneck(Parts(compute=0.10, input=0.06, host=0.001, train=0.10), GPU)
    assert "add up" in long.why and "add up" not in apart.why
    assert any("decoding" in advice for advice in long.change)
    assert not any("decoding" in advice for advice in (*short.change, *apart.change))


@pytest.mark.parametrize(
    ("change", "advised", "text"),
    [
        ({"compute_dtype": "float32"}, True, "bfloat16"),
        ({"compute_dtype": "bfloat16"}, False, "bfloat16"),
        ({"peak_share": 0.1}, True, "batch_size"),
        ({"peak_share": 0.5}, False, "batch_size"),
        ({"cpu": True, "keeps_heap": False}, True, "heap"),
        ({"cpu": True, "keeps_heap": True}, False, "heap"),
        ({"cpu": True, "compute_dtype": "float32"}, False, "bfloat16"),
    ],
)
def test_advice_for_compute_fits_the_setting(change, advised, text):
    bottleneck = find_bottleneck(
        Parts(compute=1.0, input=0.1, host=0.001, train=1.0), replace(GPU, **change)
    )
    assert any(text in advice for advice in bottleneck.change) == advised


def test_a_long_step_is_written_in_whole_milliseconds():
    bottleneck = find_bottleneck(Parts(compute=1.291, input=0.0589, host=0.001, train=1.36), CPU)
    assert bottleneck.why.startswith(
        "compute 1291 ms, input 58.9 ms, host 1 ms; end to end 1360 ms"
    )


@pytest.mark.parametrize(("cache", "advised"), [("none", True), ("disk", False)])
def test_advice_for_input_fits_the_config(cache, advised):
    setting = replace(GPU, cache=cache)
    bottleneck = find_bottleneck(Parts(compute=0.1, input=1.0, host=0.001, train=1.0), setting)
    assert any("data.cache" in advice for advice in bottleneck.change) == advised


def test_times_that_do_not_add_up_are_reported():
    busy = find_bottleneck(Parts(compute=0.10, input=0.02, host=0.001, train=0.05), CPU)
    slow = find_bottleneck(Parts(compute=0.10, input=0.02, host=0.001, train=0.20), GPU)
    assert "measure again" in busy.why
    assert "the parts alone do not explain 50% of that" in slow.why
