"""The model's arithmetic, the stored counts, and the tables in docs/scaling.md."""

import dataclasses

import pytest
import scaling_counts
import scaling_model
from scaling_counts import Counts, count, read_counts, store
from scaling_input import CORES, Input, most_rows
from scaling_machines import A100, H100, PUBLISHED, V4, System
from scaling_model import (
    DOCUMENT,
    all_reduce,
    exposed,
    fitted_efficiency,
    most_devices,
    need_table,
    needed,
    predict,
    roofline,
    with_tables,
)

from mlcls_jax.config import Config, Model
from mlcls_jax.data.loaders.choice import costs
from mlcls_jax.step.network import network_spec, variables_shape
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.system.devices import make_mesh

COUNTS = Counts("b0", "full", 10, 224, 2e12, 1e9, 8_000_000, 1, "cpu")
SYSTEM = System("two hosts", 4, 2, 100, 1e13, 1e10, 1e9, 1e-3)


def test_a_ring_sends_nearly_twice_the_bytes():
    assert all_reduce(8e6, 1, SYSTEM) == 0.0
    # 3 steps to sum and 3 to distribute, each with a quarter of the bytes.
    assert all_reduce(8e6, 4, SYSTEM) == pytest.approx(6 * (2e6 / 1e9 + 1e-3))
    without_latency = dataclasses.replace(SYSTEM, latency=0.0)
    assert all_reduce(8e6, 10**6, without_latency) == pytest.approx(2 * 8e6 / 1e9, rel=1e-5)


def test_buckets_hide_all_but_the_last_all_reduce():
    step = predict(COUNTS, SYSTEM, efficiency=0.5)
    one = exposed(step, COUNTS, 4, SYSTEM, 1)
    assert one == pytest.approx(all_reduce(COUNTS.reduced, 4, SYSTEM))
    # The backward pass is long: an all-reduce ends before the next bucket is full.
    assert exposed(step, COUNTS, 4, SYSTEM, 4) == pytest.approx(
        all_reduce(COUNTS.reduced / 4, 4, SYSTEM)
    )
    short = dataclasses.replace(step, compute=0.0)  # nothing to hide behind: latencies add up
    assert exposed(short, COUNTS, 4, SYSTEM, 2) > one


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    assert roofline(COUNTS, SYSTEM) == (pytest.approx(0.2), False)
    assert roofline(dataclasses.replace(COUNTS, traffic=4e9), SYSTEM) == (pytest.approx(0.4), True)


def test_the_parts_of_a_step_add_up():
    step = predict(COUNTS, SYSTEM, efficiency=0.5)
    assert step.compute == pytest.approx(0.4)
    assert step.reduce == all_reduce(COUNTS.reduced, 4, SYSTEM)
    # 20 images per host, on 100 cores.
    assert step.input == pytest.approx(20 / Input().rate(224, 100))
    assert step.wait == 0.0 and step.limit == "arithmetic"
    assert step.total == pytest.approx(step.compute + step.reduce)
    assert step.efficiency == pytest.approx(step.compute / step.total)


def test_the_longest_part_is_the_limit():
    slow = predict(COUNTS, SYSTEM, efficiency=0.5, reader=Input(core_speed=1e-4))
    assert slow.limit == "input" and slow.total == pytest.approx(slow.input)
    assert predict(dataclasses.replace(COUNTS, reduced=10**9), SYSTEM, 0.5).limit == "all-reduce"
    assert predict(dataclasses.replace(COUNTS, traffic=9e9), SYSTEM, 0.5).limit == (
        "memory bandwidth"
    )


def test_the_fit_reproduces_the_published_throughput():
    efficiency = fitted_efficiency([COUNTS], PUBLISHED[:1])
    step = predict(COUNTS, A100, efficiency, devices=1)
    assert COUNTS.batch / step.compute == pytest.approx(PUBLISHED[0].rate)
    b4 = dataclasses.replace(COUNTS, variant="b4")
    # Both have the same counts here, so the published 3454 and 470 images/s are averaged.
    both = fitted_efficiency([COUNTS, b4], PUBLISHED[:2])
    assert both / efficiency == pytest.approx((470 / 3454) ** 0.5)


def test_most_devices_is_the_largest_busy_number():
    devices = most_devices(COUNTS, SYSTEM, efficiency=0.5, share=0.8)
    assert devices > 1

    def busy(devices):
        compute = 4 * 0.4 / devices
        return compute / (compute + all_reduce(COUNTS.reduced, devices, SYSTEM))

    assert busy(devices) > 0.8 > busy(2 * devices)


def test_one_process_is_limited_by_its_cores_and_then_by_the_lock():
    cost = costs(224, changes=False)["threads"]
    threads = Input("threads")
    assert threads.rate(224, 2) == pytest.approx(2e6 / cost.core)
    assert threads.rate(224, 208) == threads.rate(224, 1000) == 1e6 / cost.lock
    assert Input("threads", lock=2 * cost.lock).rate(224, 208) == pytest.approx(5e5 / cost.lock)
    added = costs(224, changes=True)["threads"].lock - cost.lock
    with_changes = Input("threads", rand_augment=True, lock=2 * cost.lock).rate(224, 208)
    assert with_changes == pytest.approx(1e6 / (2 * cost.lock + added))


def test_tf_data_has_no_lock_without_changes_in_python():
    tf_data = Input("tf_data")
    assert tf_data.rate(224, 2000) == pytest.approx(1000 * tf_data.rate(224, 2))
    changed = Input("tf_data", rand_augment=True)
    assert changed.rate(224, 2000) == changed.rate(224, 1000) < tf_data.rate(224, 1000)


def test_several_processes_have_a_lock_each_and_share_the_cores():
    one, eight = Input("threads"), Input("threads", processes=8)
    assert eight.rate(224, 2) == pytest.approx(one.rate(224, 2))
    assert eight.rate(224, 2000) == pytest.approx(8 * one.rate(224, 2000))


def test_the_faster_loader_is_taken():
    rates = [Input(name).rate(456, 96) for name in ("threads", "tf_data")]
    assert Input().rate(456, 96) == max(rates)
    assert Input(core_speed=2.0).rate(456, 96) == pytest.approx(2 * max(rates))


def test_the_table_of_the_most_images():
    head, *rows = most_rows(Input())
    assert head[3:] == [f"{cores} cores" for cores in CORES]
    assert len(rows) == 8 and all(len(row) == len(head) for row in rows)
    assert rows[0][:3] == ["threads", "no", "224"] and rows[-1][:3] == ["tf_data", "yes", "456"]
    assert rows[0][3] == f"{Input('threads').rate(224, 2):,.0f}"


def test_a_host_needs_what_its_devices_compute():
    step = predict(COUNTS, SYSTEM, 0.5)
    assert needed(COUNTS, SYSTEM, 0.5) == pytest.approx(20 / (step.compute + step.reduce))


def test_the_table_of_needs_has_small_networks_only():
    large = dataclasses.replace(COUNTS, variant="b4")
    head, _, *rows = need_table([COUNTS, large], (H100, V4), 0.5, Input()).splitlines()
    assert head.count("threads") == head.count("tf_data") == 2
    (row,) = rows
    threads = [Input("threads").rate(224, system.cores) for system in (H100, V4)]
    assert all(f" {rate:,.0f} |" in row for rate in threads)


@pytest.mark.parametrize("phase", ["head", "full"])
def test_reduced_bytes_are_the_gradients_and_two_scalars(phase):
    (stored,) = (c for c in read_counts() if (c.variant, c.phase) == ("b0", phase))
    config = Config(model=Model(variant="b0"))
    spec = network_spec(config.model, scaling_counts.CLASSES)
    params = variables_shape(spec, make_mesh(1))["params"]
    trained = [leaf for path, leaf in flatten(params).items() if phase == "full" or "head/" in path]
    assert stored.reduced == 4 * (sum(leaf.size for leaf in trained) + 2)


def test_counts_are_per_device_and_stored_once(tiny, tmp_path):
    path = tmp_path / "counts.json"
    one = count(tiny, "head", 2, make_mesh(1))
    eight = count(tiny, "head", 2, make_mesh(8))
    assert eight.compiler == "cpu" and eight.batch == 2
    assert eight.flops == pytest.approx(one.flops, rel=0.02)
    assert eight.reduced > 0 == one.reduced
    for row in (one, eight):
        store(row, path)
    assert read_counts(path) == [eight]


def test_missing_counts_are_reported(tmp_path):
    with pytest.raises(ValueError, match=r"scaling_counts\.py"):
        read_counts(tmp_path / "absent.json")


def test_the_document_has_the_tables():
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_tables(document, scaling_model.main([]))
    assert document.startswith("# ") and "What they say" in document


def test_options_reach_the_tables():
    assert scaling_model.main([]) != scaling_model.main(["--cores", "7"])
    assert scaling_model.main([]) != scaling_model.main(["--core-speed", "3"])
    assert scaling_model.main([]) != scaling_model.main(["--rand-augment"])
    assert "data.loader=threads" in scaling_model.main(["--loader", "threads", "--lock", "70"])
    assert "8 processes per host" in scaling_model.main(["--processes", "8"])
    assert "at 90% of the roofline" in scaling_model.main(["--efficiency", "0.9"])
