"""A part of the rehearsal: results that survive a cut, kernels, layers, the worker and the page."""

import argparse
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import part_kernels
import pytest
import report
import speed_worker
import unpack_wheels
from depthwise_layers import Layer, layers_of
from part_networks import TINY, TINY_VARIANT, Work, compile_work
from part_profile import kind_of, paths_of
from part_record import NOT_REACHED, Record, options_of, read

from mlcls_jax.models.ops import choice
from mlcls_jax.models.variants import VARIANTS

SCRIPTS = Path(report.__file__).parent


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """The network of a rehearsal, which later tests must not find."""
    monkeypatch.setitem(VARIANTS, TINY, TINY_VARIANT)


@pytest.fixture
def options(tmp_path):
    return options_of("A part.", ["--out", str(tmp_path), "--rehearse", "--limit", "60"])


def test_every_result_is_stored_at_once_and_failures_with_their_reason(options):
    record = Record("part", options)
    record.plan(["fast", "wrong", "never"])
    assert read(options.out, "part")["not_measured"]["never"] == NOT_REACHED
    assert record.measure("fast", lambda: {"rate": 3.0}) == {"rate": 3.0}
    assert read(options.out, "part")["values"] == {"fast": {"rate": 3.0}}
    assert record.measure("wrong", lambda: 1 / 0) is None
    record.began -= 59
    assert record.measure("never", lambda: 1, least=5.0) is None
    stored = read(options.out, "part")
    assert stored["not_measured"]["wrong"] == "ZeroDivisionError: division by zero"
    assert stored["not_measured"]["never"].startswith(NOT_REACHED)
    assert stored["rehearsal"] and list(stored["values"]) == ["fast"]


def test_the_layers_of_b0():
    layers = layers_of("b0", 224, 8)
    assert layers[:2] == [Layer(8, 112, 32, 3, 1), Layer(8, 112, 96, 3, 2)]
    assert layers[-1] == Layer(8, 7, 1152, 3, 1)
    assert str(layers[1]) == "8x112x112x96 k3 s2"
    assert layers[1].shapes == ((8, 112, 112, 96), (3, 3, 1, 96), (8, 56, 56, 96))
    assert layers_of("v2s", 384, 8)[0].channels == 64 * 4  # fused blocks have none


def test_all_kernels_of_a_layer_are_timed_and_the_fastest_becomes_a_rule():
    layer = Layer(1, 4, 8, 3, 1)
    times = part_kernels.time_layer(layer, replace(part_kernels.REHEARSAL, dtype="float32"))
    for operation, found in times.items():
        assert set(part_kernels.OPERATIONS[operation]) <= set(found)
        assert all(isinstance(value, float) for value in found.values()), found
    times = {name: {"native": 10.0, "pallas": 4.0, "shifted_sum": "failed"} for name in times}
    measured = [{"layer": layer.facts, "times": times}]
    table = part_kernels.best_table(measured, "cuda", "bfloat16")
    assert table["depthwise"][0] == {
        "platform": "cuda",
        "dtype": "bfloat16",
        **layer.facts,
        "use": "pallas",
    }
    assert table["depthwise"][-1] == {"use": "native"}


def test_the_table_with_the_fastest_step_is_kept_next_to_the_results(options, monkeypatch):

    def rate(kind, environment, setting, limit):
        name = Path(environment.get(choice.VARIABLE, "")).stem
        if kind == "forward":
            return {"images_per_second": 9.0 if name == "kernels_pallas_normalised" else 8.0}
        if name == "kernels_fastest_per_layer":
            raise RuntimeError("does not compile")
        return {"images_per_second": 9.0 if name == "kernels_shifted_sum" else 8.0}

    monkeypatch.setattr(part_kernels, "options_of", lambda _: options)
    monkeypatch.setattr(part_kernels, "time_layer", lambda *_: {"depthwise": {"pallas": 1.0}})
    evaluations = ("shipped", "pallas, normalised")
    setting = replace(part_kernels.REHEARSAL, evaluations=evaluations)
    monkeypatch.setattr(part_kernels, "REHEARSAL", setting)
    monkeypatch.setattr(part_kernels, "time_moments", lambda *_: {})
    monkeypatch.setattr(part_kernels, "step_rate", rate)
    part_kernels.main()
    table = json.loads((options.out / "kernel_table.json").read_text())
    both = ("shifted sum", "pallas, normalised")  # of the fastest step, and evaluation
    assert table == part_kernels.TABLES[both[0]] | part_kernels.TABLES[both[1]]
    stored = json.loads((options.out / "kernels.json").read_text())
    assert stored["values"]["step, flag none"] == {"images_per_second": 8.0}
    assert "does not compile" in stored["not_measured"]["step, fastest per layer"]
    fastest = json.loads((options.out / "kernels_fastest_per_layer.json").read_text())
    assert "pallas" not in str(fastest)  # a CPU only interprets it


def test_nothing_is_called_the_fastest_if_nothing_ran(options, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(part_kernels, "step_rate", fail)
    part_kernels.time_steps(Record("kernels", options), part_kernels.REHEARSAL, {})
    assert not (options.out / "kernel_table.json").exists()


def test_a_worker_replies_and_survives_what_does_not_fit():
    def build(what, variant, size, batch):
        if batch > 4:
            raise MemoryError("too large")
        return lambda steps: steps * 0.5, {"flops": 8.0 * batch}

    side = argparse.Namespace(build=build, memory=lambda: {"peak_memory": None})
    replies = io.StringIO()
    requests = ["train@4 0", "train@8 1.0", "forward@2 2.0"]
    speed_worker.serve(side, ("b0", 224), requests, replies)
    first, failed, last = map(json.loads, replies.getvalue().splitlines())
    assert (first["steps"], first["seconds"], first["flops"], first["batch"]) == (2, 1.0, 32.0, 4)
    assert failed == {"error": "MemoryError: too large"}
    assert (last["steps"], last["seconds"]) == (4, 2.0)


def test_only_missing_packages_are_unpacked(tmp_path):
    for name in ("json", "absent_package"):
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "")
            wheel.writestr(f"{name}-1.dist-info/METADATA", "")
    unpacked = unpack_wheels.unpack(tmp_path, tmp_path / "packages")
    assert unpacked == ["absent_package-1-py3-none-any.whl"]
    assert not (tmp_path / "packages" / "json").exists()


def test_instructions_are_sorted_by_the_layer_that_they_belong_to():
    path = "jit(step)/transpose/backbone/stage1/block1/{}"
    kinds = {
        "depthwise/conv/mul": "depthwise convolution",
        "depthwise/norm/reduce_sum": "normalisation",
        "se/expand/dot_general": "squeeze-excite",
        "project/conv/dot_general": "other convolution or product",
    }
    assert {end: kind_of(path.format(end)) for end in kinds} == kinds
    text = '  %fusion.3 = f32[8]{0} fusion(%x), metadata={op_name="jit(f)/a/b" source_line=1}\n'
    assert paths_of(text) == {"fusion.3": "jit(f)/a/b"}


def test_the_page_names_what_was_not_measured(tmp_path):
    empty = report.page(report.read_all(tmp_path), {})
    assert "Nothing here has been measured on a GPU yet" in empty
    assert empty.count("not measured") > 50
    stored = (SCRIPTS.parents[1] / "docs" / "accelerators.md").read_text(encoding="utf-8")
    assert [line for line in empty.splitlines() if line.startswith("#")] == [
        line for line in stored.splitlines() if line.startswith("#") and "rehearsal" not in line
    ]
    speed = {"b0@224 train ours 256": rate(3000.0), "b0@224 train ours 512": rate(3100.0)}
    reasons = {"b0@224 train keras 256": "keras is not installed"}
    results = {
        "speed": {
            "values": speed | {"peaks": {"flops": 3e13, "bytes_per_second": 3e12}},
            "not_measured": reasons,
        }
    }
    steps = {"step, pallas": rate(900.0), "evaluation, pallas, normalised": rate(4000.0)}
    results["kernels"] = {"values": steps, "not_measured": {"step, flag --xla_a=1": "late"}}
    text = report.page(results, {"speed": {"values": speed, "not_measured": reasons, "seconds": 9}})
    row = next(line for line in text.splitlines() if line.startswith("| b0, 224 px, train"))
    cells = ["256", "3,000", "not measured", "not measured", "not measured: keras is not installed"]
    assert cells == row.split(" | ")[1:6]
    assert "25%, 10%, 5.0 GB" in row
    assert "| pallas | 900 | not measured |" in text
    assert "| pallas, normalised |  | 4,000 |" in text
    assert "| flag `--xla_a=1` | not measured: late |  |" in text
    assert "| b0@224 train ours 512 | 3,100 | 5.0 |" in text
    assert "| speed | 2 | 1 × keras is not installed | 9 |" in text


def rate(images_per_second):
    counts = {"batch": 256, "flops": 2.5e9 * 256, "traffic": 1e8 * 256, "planned_memory": 1}
    return {"images_per_second": images_per_second, "peak_memory": 5e9, **counts}


@pytest.mark.slow
def test_parts_measure_a_tiny_network():
    import part_correctness
    import part_profile

    assert part_correctness.finite_steps(TINY, 32)["passed"]
    assert part_correctness.compare_logits(TINY, 32, None)["passed"]
    assert part_correctness.compare_step(TINY, 32)["passed"]
    assert part_profile.profile(TINY, 32, 2)["longest"]
    forward = compile_work(Work("forward", TINY, 32, 2))
    assert forward.run(2) > 0 and forward.flops > 0
