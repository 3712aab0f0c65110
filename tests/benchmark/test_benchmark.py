"""The benchmark command: options, a run, its JSON, a sweep and a trace."""

import json
import math
import re

import jax
import pytest

from mlcls_jax.benchmark import __main__, compiled_steps, hardware
from mlcls_jax.benchmark.compiled_steps import DoesNotFitError
from mlcls_jax.benchmark.measure import shares
from mlcls_jax.benchmark.synthetic_images import CLASSES
from mlcls_jax.config import Config, Data, Model
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.options.benchmark import Sweep, parse_sweep
from mlcls_jax.step.network import network_spec
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.step.programs import forward_program
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import make_mesh

CONFIG = """
from mlcls_jax.config import Config, Data, Group, Model, Phase


def get_config():
    return Config(
        data=Data(batch_size=8, eval_batch_size=8),
        model=Model(variant="lite0", image_size=32),
        phases=[
            Phase("head", "1 epoch", [Group("head/.*", 1e-3)]),
            Phase("all", "3 epochs", [Group(".*", 1e-4)]),
        ],
    )
"""


@pytest.fixture
def call(tiny, tmp_path, monkeypatch):
    """Calls the entry point with a tiny network and the shortest measurements."""
    monkeypatch.setitem(VARIANTS, "lite0", VARIANTS[tiny])
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    monkeypatch.setenv("MLCLS_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distributed, "start", lambda *_: None)
    monkeypatch.setattr(hardware, "matmul_size", lambda: 256)
    monkeypatch.setattr(console, "quiet", False)
    monkeypatch.setattr(console, "stderr", False)
    short = ("--seconds", "0.001", "--repeats", "2")
    return lambda *options: __main__.main(["--config", str(config), *short, *options])


def user_csv(photos):
    return f"--config.data.csv={photos / 'labels.csv'}", f"--config.data.images={photos}"


@pytest.mark.slow
def test_everything_is_measured_and_each_phase_has_a_bottleneck(call, capsys):
    assert call("--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert "synthetic" in result["images"] and "synthetic" in err
    assert result["classes"] == CLASSES and result["batch_size"] == 8
    assert result["place"]["devices"] == jax.device_count()
    assert result["peak_rss"] > 1e8
    assert result["matmul_flops_per_second"]["median"] > 1e8
    check_timing(result["input"], jax.device_count())
    forward, head, everything = result["programs"]
    assert [program["name"] for program in result["programs"]] == ["forward", "head", "all"]
    for program in result["programs"]:
        check_timing(program["step"], jax.device_count())
        assert 0 < program["peak_share"] < 1
        assert program["memory"]["peak"] > program["memory"]["temporary"] > 0
    assert forward["trainable"] == 0 and forward["train"] is None and forward["bottleneck"] is None
    assert 0 < head["trainable"] < everything["trainable"]
    assert head["flops_per_image"] < everything["flops_per_image"]
    for phase in (head, everything):
        check_timing(phase["train"], jax.device_count())
        assert phase["host_seconds_per_step"]["median"] > 0
        assert phase["bottleneck"]["bound"] in ("input", "compute", "host")
        assert f"{phase['name']} is bound by {phase['bottleneck']['bound']}" in err
        # The gradients, the loss and the number of labels are summed, four bytes each.
        bytes_sent = sum(collective["bytes"] for collective in phase["collectives"])
        assert bytes_sent == 4 * (phase["trainable"] + 2)
    # A run has three steps of "all" to one of "head".
    head_seconds = head["train"]["seconds_per_step"]["median"]
    seconds = 0.25 * head_seconds + 0.75 * everything["train"]["seconds_per_step"]["median"]
    assert result["images_per_second"] == pytest.approx(8 / seconds)


def check_timing(timing, devices):
    seconds, rate = timing["seconds_per_step"], timing["images_per_second"]
    assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"] < math.inf
    assert rate["median"] == pytest.approx(8 / seconds["median"])
    assert rate["low"] <= rate["median"] <= rate["high"]
    assert timing["images_per_second_per_device"] == pytest.approx(rate["median"] / devices)


def test_a_users_images_are_read_and_a_trace_is_written(call, photos, tmp_path, capsys):
    trace = tmp_path / "trace"
    assert call("--what", "input", "--profile", str(trace), *user_csv(photos)) == 0
    printed = capsys.readouterr().out
    unwrapped = re.sub(r"[\s│]+", "", printed)  # a long path is cut into lines
    assert "30of" in unwrapped and "labels.csv" in unwrapped and "synthetic" not in unwrapped
    out = " ".join(printed.split())
    assert "input alone" in out and "forward" not in out
    assert f"tensorboard --logdir {trace}" in out
    assert list(trace.rglob("*.xplane.pb")) and list(trace.rglob("*.trace.json.gz"))


def test_a_sweep_names_the_best_value_and_survives_a_lack_of_memory(
    call, photos, capsys, monkeypatch
):
    def measure_or_fail(config, plan, folder):
        if config.data.batch_size == 24:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        if config.data.batch_size == 32:
            raise DoesNotFitError("a step needs 9.0 GB and 1.0 GB are free")
        return measure(config, plan, folder)

    measure = __main__.measure
    monkeypatch.setattr(__main__, "measure", measure_or_fail)
    sweep = ("--what", "input", "--sweep", "batch_size=8,24,16,32")
    assert call("--json", *sweep, *user_csv(photos)) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["sweep"] == "data.batch_size"
    small, exhausted, middle, large = result["rows"]
    assert "RESOURCE_EXHAUSTED" in exhausted["out_of_memory"] and exhausted["result"] is None
    assert "9.0 GB" in large["out_of_memory"] and large["result"] is None
    rates = {row["value"]: row["result"]["images_per_second"] for row in (small, middle)}
    assert result["best"] == max(rates, key=lambda value: rates[value])
    assert f"Best: --config.data.batch_size={result['best']}" in err
    assert err.count("out of memory") == 2
    assert middle["result"]["batch_size"] == 16


def test_other_device_errors_end_a_sweep(call, photos, monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(__main__, "measure", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        call("--sweep", "batch_size=8,16", *user_csv(photos))


def test_a_step_that_does_not_fit_into_cpu_memory_is_refused(tiny, monkeypatch):
    config = Config(model=Model(variant=tiny, image_size=32), data=Data(batch_size=8))
    program = forward_program(
        network_spec(config.model, 3), PretrainedConfig(KERAS, IMAGENET), 8, make_mesh()
    )
    monkeypatch.setattr(compiled_steps, "available_memory", lambda: 1e5)
    with pytest.raises(DoesNotFitError, match=r"0\.0 GB are free; lower data\.batch_size"):
        compiled_steps.compile_program(program, 1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--sweep", "batchsize=1,2"), "batchsize"),
        (("--sweep", "batch_size"), "batch_size=16,32,64"),
        (("--sweep", "batch_size=8,,16"), "batch_size=16,32,64"),
        (("--sweep", "batch_size=8,many"), "batch_size"),
        (("--sweep", "batch_size=8,9"), "data.batch_size is 9"),
        (("--profile", "{file}"), "--profile"),
        (("--config.data.csv=nowhere.csv",), "data.images"),
        (("--batch-size", "0"), "data.batch_size is 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(call, tmp_path, options, named):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError) as info:
        call(*(option.replace("{file}", str(file)) for option in options))
    assert named in str(info.value) and "\n" not in str(info.value)


@pytest.mark.parametrize(
    "options",
    [
        ("--what", "speed"),
        ("--repeats", "0"),
        ("--batch_size", "8"),
        ("--seconds", "0"),
        ("--sweep", "batch_size=8,16", "--profile", "trace"),
    ],
)
def test_an_impossible_option_is_refused(options, capsys):
    with pytest.raises(SystemExit) as info:
        __main__.parse(["--config", "c.py", *options])
    assert info.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["batch_size", "data.batch_size"])
def test_a_sweep_takes_a_field_name_or_path(name):
    sweep = parse_sweep(f"{name}=16, 32")
    assert sweep == Sweep("data.batch_size", ("16", "32"))
    assert sweep.override("32") == "--config.data.batch_size=32"


def shares_of(config: Config) -> list[float]:
    """Returns the share of each phase in the steps on images, for 320 training images."""
    every = config.evaluation.every
    return shares(plan_phases(config.phases, 320, batch_size=config.data.batch_size, every=every))


def test_steps_on_cached_features_do_not_count_as_steps_on_images():
    config = Config()
    assert config.phases[0].cached_views and not config.phases[1].cached_views
    assert shares_of(config) == [0.0, 1.0]
    config.phases[0].cached_views, config.phases[0].duration = 0, "4 epochs"
    assert shares_of(config) == [0.25, 0.75]
    config.phases[0].cached_views = config.phases[1].cached_views = 1
    assert shares_of(config) == [0.25, 0.75]
