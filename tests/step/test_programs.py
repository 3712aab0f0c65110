"""Compiled steps: dtypes, layout, donation, collectives and arithmetic.

Most programs are compiled but not run.  Programs for accelerators are read from exports.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo_text import donated, elements, operations
from jax import export

from mlcls_jax.config import Augment, Config, Data, Group, Loss, Model, Phase, Train
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.variants import VARIANTS, Variant
from mlcls_jax.step.feature_step import FeatureChunk, Features
from mlcls_jax.step.groups import trainable_paths
from mlcls_jax.step.network import build_model, head_input, network_spec, variables_shape
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.phases import PlannedPhase, plan_phases
from mlcls_jax.step.programs import (
    Program,
    feature_step_program,
    forward_program,
    fresh_state,
    step_program,
    step_spec,
)
from mlcls_jax.system.devices import make_mesh
from mlcls_jax.system.hlo import collectives, flops, memory

CLASSES = 5
ROWS = 11  # per device; no parameter's size is a multiple, so this identifies activations
PRETRAINED = PretrainedConfig(KERAS, IMAGENET)
HEAD = Phase("head", "10 steps", [Group("head/.*", 1e-2)])
TAIL = Phase("tail", "10 steps", [Group("(head|backbone/top|backbone/stage7)/.*", 1e-2)])
FULL = Phase("full", "10 steps", [Group(".*", 1e-2)])
STATISTICS = Phase("statistics", "10 steps", [Group(".*", 1e-2)], batch_norm="train")
PHASES = [HEAD, TAIL, FULL, STATISTICS]


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Adds a variant with one narrow block per stage, including squeeze-excite."""
    monkeypatch.setitem(VARIANTS, "narrow", Variant(0.25, 0.3, 32, 0.2))


def make_config(phase: Phase, devices: int = 1, **model) -> Config:
    model = {"variant": "narrow", "image_size": 32, "compute_dtype": "bfloat16"} | model
    return Config(
        data=Data(batch_size=ROWS * devices), model=Model(weights="", **model), phases=[phase]
    )


def plan_for(config: Config, images: int = 100) -> list[PlannedPhase]:
    return plan_phases(
        config.phases,
        images,
        batch_size=config.data.batch_size,
        every=config.evaluation.every,
    )


def step(phase: Phase, devices: int = 1, **model) -> Program:
    config = make_config(phase, devices, **model)
    (phase_plan,) = plan_for(config)
    return step_program(step_spec(config, CLASSES), PRETRAINED, phase_plan, make_mesh(devices))


@functools.cache
def compiled_step(name: str, devices: int) -> jax.stages.Compiled:
    phase = next(phase for phase in PHASES if phase.name == name)
    return step(phase, devices).lower().compile()


@functools.cache
def exported_step(platform: str) -> export.Exported:
    program = step(STATISTICS)
    return export.export(program.function, platforms=[platform])(*program.arguments)


def trained(phase: Phase) -> tuple[dict, frozenset[str]]:
    """Returns the shapes of {params, batch_stats}, and the trainable paths."""
    state, _ = step(phase).arguments
    return {"params": state.params, "batch_stats": state.batch_stats}, trainable_paths(
        state.params, phase
    )


@pytest.mark.parametrize(
    ("on_nan", "features", "extra"),
    [("stop", True, set()), ("skip", True, {"skipped"}), ("skip", False, {"skipped"})],
)
def test_a_step_that_may_skip_reports_it(on_nan, features, extra):
    phase = dataclasses.replace(HEAD, cached_views=int(features))
    config = dataclasses.replace(make_config(phase), train=Train(on_nan))
    (phase_plan,), mesh = plan_for(config), make_mesh(1)
    if features:
        shapes = variables_shape(network_spec(config.model, CLASSES), mesh)
        program = feature_step_program(step_spec(config, CLASSES), phase_plan, 100, mesh, shapes)
    else:
        program = step_program(step_spec(config, CLASSES), PRETRAINED, phase_plan, mesh)
    state, metrics = jax.eval_shape(program.function, *program.arguments)
    assert set(metrics) == {"loss", "grad_norm"} | extra
    assert jax.tree.structure(state) == jax.tree.structure(program.arguments[0])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_multiply_in_bfloat16_except_in_the_head(platform):
    text = exported_step(platform).mlir_module()
    products = operations(text, "convolution", "dot_general")
    written = re.findall(r"stablehlo\.(?:convolution|dot_general)", text)
    assert len(products) == len(written) > 0
    wide = [product for product in products if "bf16" not in "".join(product.operands)]
    # The head and its two gradients, because logits are float32.
    assert len(wide) == 3
    assert all(str(CLASSES) in "".join(product.operands) for product in wide)
    for product in products:
        assert product in wide or all(kind.endswith("bf16") for kind in product.operands)


def test_a_decoder_multiplies_in_bfloat16_and_leaves_a_frozen_backbone_alone():
    program = step(HEAD, head="mldecoder", decoder_width=64, image_size=64)
    text = export.export(program.function, platforms=["cuda"])(*program.arguments).mlir_module()
    products = operations(text, "dot_general")
    wide = [product for product in products if "bf16" not in "".join(product.operands)]
    assert len(products) > 10 and len(wide) == 3  # the layers of the queries, to float32 logits
    assert all(f"{CLASSES}x64" in "".join(product.operands) for product in wide)
    config = make_config(HEAD)
    forward = forward_program(network_spec(config.model, CLASSES), PRETRAINED, ROWS, make_mesh(1))
    forward = export.export(forward.function, platforms=["cuda"])(*forward.arguments).mlir_module()
    spatial = [len(operations(module, "convolution")) for module in (text, forward)]
    assert spatial[0] == spatial[1] > 0  # none for a gradient


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_convolve_natively(platform):
    text = exported_step(platform).mlir_module()
    shapes, _ = trained(STATISTICS)
    depthwise = [
        leaf.shape[-1]
        for path, leaf in flatten(shapes["params"]).items()
        if path.endswith("depthwise/conv/kernel")
    ]
    convolutions = operations(text, "convolution")
    # Forward and two gradients each; the stem's input needs no gradient.
    assert len(convolutions) == 3 * len(depthwise) + 2
    assert {c.groups for c in convolutions} >= set(depthwise)
    assert "stablehlo.while" not in text  # the form for CPU


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_no_activation_is_transposed_and_no_host_is_called(platform):
    text = exported_step(platform).mlir_module()
    shapes, _ = trained(STATISTICS)
    assert all(leaf.size % ROWS for leaf in jax.tree.leaves(shapes) if leaf.ndim)
    transposed = [op.operands[0] for op in operations(text, "transpose")]
    assert transposed  # kernels, for their gradients
    assert not [kind for kind in transposed if elements(kind) % ROWS == 0]
    assert not re.findall(r"callback|infeed|outfeed|stablehlo\.(?:send|recv)\b", text)
    assert "f64" not in text


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_state_and_metrics_are_float32(platform):
    results = exported_step(platform).out_avals
    assert {leaf.dtype.name for leaf in results} <= {"float32", "int32"}
    state, _ = step(STATISTICS).arguments
    assert [leaf.dtype for leaf in results][:-2] == [leaf.dtype for leaf in jax.tree.leaves(state)]


def test_logits_are_float32():
    program = forward_program(
        network_spec(make_config(HEAD).model, CLASSES), PRETRAINED, ROWS, make_mesh(1)
    )
    logits = jax.eval_shape(program.function, *program.arguments)
    assert logits.dtype == jnp.float32 and logits.shape == (ROWS, CLASSES)


@pytest.mark.parametrize("phase", [HEAD, STATISTICS], ids=lambda phase: phase.name)
def test_the_whole_state_is_donated(phase):
    state, _ = step(phase, devices=8).arguments
    leaves = jax.tree.leaves(state)
    program = compiled_step(phase.name, 8)
    assert donated(program) >= set(range(len(leaves)))
    assert memory(program).aliased == sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_images_are_mixed_if_the_config_says_so():
    texts = []
    for augment in (Augment(mixed_labels="union"), Augment(cutmix=1.0)):
        config = dataclasses.replace(make_config(HEAD, devices=2), augment=augment)
        (phase_plan,) = plan_for(config)
        program = step_program(step_spec(config, CLASSES), PRETRAINED, phase_plan, make_mesh(1))
        texts.append(program.lower().as_text())
    # The positions of the pairs, which are half of the rows, are uint32.
    assert [f"tensor<{ROWS}xui32>" in text for text in texts] == [False, True]


@pytest.mark.parametrize("phase", [HEAD, STATISTICS], ids=lambda phase: phase.name)
def test_one_sum_of_gradients_and_totals_is_all_communication(phase):
    shapes, paths = trained(phase)
    numbers = sum(leaf.size for path, leaf in flatten(shapes["params"]).items() if path in paths)
    numbers += 2  # the loss and the count of labels
    if phase.batch_norm == "train":
        numbers += sum(leaf.size for leaf in jax.tree.leaves(shapes["batch_stats"]))
    (only,) = collectives(compiled_step(phase.name, 8))
    assert (only.kind, only.bytes) == ("all-reduce", 4 * numbers)


def test_hundreds_of_arrays_are_still_one_sum():
    # By default, compilers join at most 256 arrays (CPU) or 30 MB (GPU) into one all-reduce.
    text = step(STATISTICS, devices=8, variant="b1").lower().as_text()
    assert text.count("stablehlo.all_reduce") == 1


def test_the_step_on_images_uses_the_loss_of_the_config():
    config, mesh = make_config(HEAD), make_mesh(1)
    (phase_plan,) = plan_for(config)

    def lowered(loss: Loss) -> str:
        config.loss = loss
        shares = (0.1, 0.2, 0.3, 0.4, 0.5)
        program = step_program(step_spec(config, CLASSES, shares), PRETRAINED, phase_plan, mesh)
        return program.lower().as_text()

    texts = {lowered(loss) for loss in (Loss(), Loss(pos_weight="auto"))}
    assert len(texts) == 2


@pytest.mark.parametrize(
    "loss",
    [Loss("focal", alpha=0.25), Loss("asl", label_smoothing=0.1), Loss(pos_weight="auto")],
    ids=lambda loss: loss.name,
)
def test_every_loss_trains_a_head_on_features(loss):
    phase = Phase("head", "10 steps", HEAD.groups, schedule="constant", cached_views=1)
    config, mesh, rng = make_config(phase, dropout=0.0), make_mesh(1), np.random.default_rng(0)
    config.loss = loss
    (phase_plan,) = plan_for(config, images=ROWS)
    labels = np.where(rng.random((ROWS, CLASSES)) < 0.3, 1, 0).astype(np.int8)
    shapes = variables_shape(network_spec(config.model, CLASSES), mesh)
    spec = step_spec(config, CLASSES, labels.mean(axis=0))
    step = feature_step_program(spec, phase_plan, ROWS, mesh, shapes).function
    shape = (ROWS, 1, *head_input(network_spec(config.model, CLASSES), shapes).shape)
    inputs = rng.standard_normal(shape).astype(np.float32)
    rows = np.tile(np.arange(ROWS), (10, 1))
    chunk = FeatureChunk(rows.astype(np.int32), rows.astype(np.uint32))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, metrics = step(fresh_state(zeros, phase_plan), Features(inputs, labels), chunk)
    losses = np.asarray(metrics["loss"])
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_backward_stops_at_the_first_trained_stage():
    config = make_config(HEAD, devices=8)
    forward = (
        forward_program(network_spec(config.model, CLASSES), PRETRAINED, 8 * ROWS, make_mesh(8))
        .lower()
        .compile()
    )
    head, tail, full = (compiled_step(phase.name, 8) for phase in (HEAD, TAIL, STATISTICS))
    assert flops(forward) < flops(head) < flops(tail) < 0.7 * flops(full)
    assert flops(full) > 2 * flops(forward)
    assert memory(head).temporary < memory(full).temporary
    shapes, paths = trained(TAIL)
    state = jax.tree.leaves(step(TAIL).arguments[0].opt_state)
    sizes = [leaf.size for path, leaf in flatten(shapes["params"]).items() if path in paths]
    assert sum(leaf.size for leaf in state if leaf.ndim) == 2 * sum(sizes)  # Adam's moments


@pytest.mark.slow
def test_a_frozen_backbone_is_free():
    model = {"variant": "b0", "image_size": 224, "compute_dtype": "float32"}
    config = make_config(HEAD, **model)
    forward = (
        forward_program(network_spec(config.model, CLASSES), PRETRAINED, ROWS, make_mesh(1))
        .lower()
        .compile()
    )
    frozen = step(HEAD, **model).lower().compile()
    assert flops(frozen) <= 1.02 * flops(forward)


@pytest.mark.slow
def test_remat_computes_the_same():
    x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    plain, again = (
        _gradients(
            build_model(
                network_spec(
                    make_config(STATISTICS, remat=remat, compute_dtype="float32").model, CLASSES
                )
            ),
            x,
        )
        for remat in (False, True)
    )
    assert flatten(plain).keys() == flatten(again).keys()
    # Relative to the norm of all leaves, because some gradients are zero except for rounding, which
    # grows in statistics of four images: a change of 1e-6 in the inputs changes the gradients by
    # 1e-4, and other dropout by 1.3.
    for part, bound in {"gradients": 1e-3, "logits": 1e-4, "batch_stats": 1e-5}.items():
        a, b = (jax.tree.leaves(result[part]) for result in (plain, again))
        error = np.sqrt(sum(np.square(v - u).sum() for u, v in zip(a, b, strict=True)))
        assert error <= bound * np.sqrt(sum(np.square(u).sum() for u in a)), part


def _gradients(model: EfficientNet, x) -> dict:
    """Returns gradients, logits and statistics of a training step, with dropout and drop path."""
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def loss(params):
        logits, updated = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            example=jnp.arange(len(x), dtype=jnp.uint32),
            rngs={"dropout": jax.random.key(2)},
            mutable=["batch_stats"],
        )
        return jnp.square(logits).sum(), {"logits": logits, **updated}

    gradients, rest = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return jax.device_get({"gradients": gradients, **rest})


def test_remat_computes_again_in_the_step():
    plain, again = (step(FULL, remat=remat).lower() for remat in (False, True))
    barrier = "optimization_barrier"  # around each recomputed block
    assert again.as_text().count(barrier) > plain.as_text().count(barrier)


def test_the_ema_covers_what_the_phase_trains_and_steps_return_it():
    """If normalisations train, their statistics are averaged as well."""
    phase = dataclasses.replace(STATISTICS, ema=0.99, accumulate=ROWS)
    program = step(phase)
    state, _ = program.arguments
    after, _ = jax.eval_shape(program.function, *program.arguments)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(
        lambda leaf: leaf.shape, state
    )
    assert set(state.ema.params) == set(flatten(state.params))
    assert set(state.ema.batch_stats) == set(flatten(state.batch_stats))
    head = step(dataclasses.replace(HEAD, ema=0.99)).arguments[0].ema
    assert (set(head.params), set(head.batch_stats)) == ({"head/kernel", "head/bias"}, set())
    assert not step(HEAD).arguments[0].ema
