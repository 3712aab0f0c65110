"""Phases with cached features: when they are refused, and that results equal those without."""

import dataclasses
import json
import math
import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.config import Augment, Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, Rows, batch_filenames, eval_batches, train_batches
from mlcls_jax.data.sampling import Repeats
from mlcls_jax.evaluation.inference import eval_spec, readable
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.step.feature_step import NO_STEP, Features
from mlcls_jax.step.network import head_input, network_spec
from mlcls_jax.step.phases import PlannedPhase, plan_phases
from mlcls_jax.system.devices import free_memory, make_mesh, replicate
from mlcls_jax.system.signals import Stop
from mlcls_jax.train import train
from mlcls_jax.training import compile_ahead, feature_cache, loop, phase_inputs
from mlcls_jax.training.compile_ahead import CompileAhead
from mlcls_jax.training.feature_cache import (
    feature_bytes,
    feature_chunks,
    make_features,
    with_room,
    with_sample,
)
from mlcls_jax.training.validation import Evaluator

IMAGES = 30


def make_config(photos, variant, views=1, **phase) -> Config:
    phase = {"groups": [Group("head/.*", 1e-2)], **phase}
    return Config(
        log_every=3,
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        augment=Augment(symmetry={1: "none", 2: "h", 4: "hv", 8: "d4"}[views]),
        model=Model(variant=variant, weights="", image_size=32),
        evaluation=Evaluation(every="4 steps"),
        phases=[Phase("head", "11 steps", cached_views=views, **phase)],
    )


def records(workdir):
    """Returns metrics.jsonl without the fields that depend on time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clock = ("images_per_second", "seconds", "timing")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def final_variables(workdir):
    return jax.tree.leaves(jax.device_get(load_trained_model(workdir, "latest").variables))


@pytest.fixture
def no_step_on_images(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a phase on features takes no step on images")

    monkeypatch.setattr(compile_ahead, "step_program", fail)
    monkeypatch.setattr(compile_ahead, "train_batches", fail)


@pytest.mark.slow
@pytest.mark.usefixtures("no_step_on_images")
def test_stopped_run_continues_to_the_same_end(photos, tiny, tmp_path, monkeypatch):
    config, whole, parts = make_config(photos, tiny, views=2), tmp_path / "whole", tmp_path / "part"
    assert train(config, whole) == 0

    interrupted = iter([1, 3])  # the chunks at which Ctrl-C is pressed: between evaluations
    to_devices, chunks, at = phase_inputs.to_devices, [0], [next(interrupted)]

    def pressing(*args):
        for chunk in to_devices(*args):
            chunks[0] += 1
            if chunks[0] == at[0]:
                at[0] = next(interrupted, None)
                os.kill(os.getpid(), signal.SIGINT)
            yield chunk

    monkeypatch.setattr(phase_inputs, "to_devices", pressing)
    assert [train(config, parts) for _ in range(3)] == [130, 130, 0]
    assert records(parts) == records(whole)
    for ours, theirs in zip(final_variables(parts), final_variables(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_run_equals_one_without_cached_features(photos, tiny, tmp_path, monkeypatch, capsys):
    """Up to rounding: other images in a batch may change the order of the backbone's sums."""
    cached, plain, config = tmp_path / "cached", tmp_path / "plain", make_config(photos, tiny)
    with pytest.MonkeyPatch.context() as patch, compilations() as compiled:
        patch.setattr(CompileAhead, "predict", None)  # the validation images' features do
        late = [
            counted(patch, owner, name, compiled)
            for owner, name in ((loop, "run_steps"), (Evaluator, "run"), (loop, "save_evaluation"))
        ]
        assert train(config, cached) == 0
    assert compiled and late == [[0, 0, 0]] * 3  # chunks of one step and of two
    printed = capsys.readouterr().out
    assert "of 30 training images (plain, not augmented) and 10 validation" in printed
    monkeypatch.setattr(feature_cache, "free_memory", lambda _: 0.0)
    assert train(config, plain) == 0  # which falls back to steps on images
    printed = capsys.readouterr().out
    assert "the phase uses cached_views=0" in printed and "one pass" not in printed
    for ours, theirs in zip(records(cached), records(plain), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours["base_rate"] == theirs["base_rate"]
        for name, value in theirs["val"].items():
            assert ours["val"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for ours, theirs in zip(final_variables(cached), final_variables(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@contextmanager
def compilations():
    """Yields a list that grows with each compiled program."""
    compiled: list[str] = []

    def listen(event: str, _: float, **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(threading.current_thread().name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def counted(patch, owner, name: str, compiled: list[str]) -> list[int]:
    """Returns a list of how many programs each call of a function of the loop has compiled."""
    function, late = getattr(owner, name), []

    def call(*args, **options):
        seen = len(compiled)
        result = function(*args, **options)
        late.append(len(compiled) - seen)
        return result

    patch.setattr(owner, name, call)
    return late


@pytest.mark.slow
@pytest.mark.usefixtures("no_step_on_images")
def test_a_stop_during_the_pass_ends_it(photos, tiny, tmp_path, monkeypatch):
    def stopped(*args):
        next(value for value in args if isinstance(value, Stop)).set()
        return make_features(*args)

    monkeypatch.setattr(phase_inputs, "make_features", stopped)
    assert train(make_config(photos, tiny), tmp_path / "run") == 130
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_trained_backbone_is_refused_before_anything_is_written(photos, tiny, tmp_path):
    groups = [Group("(head|backbone/top)/.*", 1e-2)]
    config = make_config(photos, tiny, groups=groups)
    with pytest.raises(ValueError, match=r"phase 'head' has cached_views=1, .* backbone/top/") as e:
        train(config, tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def top(channels: int) -> dict:
    """Returns the required parameters of a backbone with this many output channels."""
    return {"top": {"conv": {"kernel": jnp.zeros((1, 1, 1, channels))}}}


def table(images: int) -> LabelTable:
    names = tuple(f"{index}.png" for index in range(images))
    return LabelTable(Path("p"), names, np.zeros((images, 2), np.int8), ("a", "b"))


@pytest.mark.parametrize(("free", "views"), [(float("inf"), 2), (1e6, 2), (7000, 0)])
def test_features_that_do_not_fit_are_computed_in_each_step(free, views, monkeypatch, capsys):
    config = Config(phases=[Phase("head", "2 steps", [Group("head/.*", 1e-2)], cached_views=2)])
    splits = {"train": table(20), "val": table(4)}
    head = {"kernel": jnp.zeros((20, 2)), "bias": jnp.zeros(2)}
    params = {"head": head, "backbone": top(20)}
    variables = {"params": params, "batch_stats": {}}
    assert (
        feature_bytes(splits, 2, head_input(network_spec(config.model, 2), variables))
        == 4 * 20 * 44 + 40
    )
    monkeypatch.setattr(feature_cache, "free_memory", lambda _: free)
    every = config.evaluation.every
    plan = plan_phases(config.phases, 20, batch_size=config.data.batch_size, every=every)
    (phase_plan,) = with_room(
        plan, splits, variables, network_spec(config.model, 2), make_mesh(1), sampled=4
    )
    assert phase_plan.phase.cached_views == views
    assert dataclasses.replace(phase_plan, phase=plan[0].phase) == plan[0]
    assert config.phases[0].cached_views == 2
    warned = "warning: head: features would take 3.9 kB on each device" in capsys.readouterr().out
    assert warned == (views == 0)


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 4), ("bfloat16", 2)])
def test_feature_maps_are_kept_in_the_dtype_that_they_are_computed_in(dtype, bytes_each):
    model = Model(head="mldecoder", image_size=225, compute_dtype=dtype)
    config, variables = Config(model=model), {"params": {"backbone": top(20)}}
    splits = {"train": table(20), "val": table(4)}
    size = feature_bytes(splits, 2, head_input(network_spec(config.model, 2), variables))
    assert size == bytes_each * 8 * 8 * 20 * 44 + 40


def device(**stats) -> SimpleNamespace:
    return SimpleNamespace(platform="gpu", memory_stats=lambda: stats or None)


def test_free_memory_is_that_of_the_fullest_device():
    full, empty = (device(bytes_limit=100, bytes_in_use=used) for used in (70, 10))
    mesh: Any = SimpleNamespace(local_devices=[empty, full])
    assert free_memory(mesh) == 30
    mesh.local_devices.append(device())  # reports no memory
    assert free_memory(mesh) == math.inf
    one, eight = free_memory(make_mesh(1)), free_memory(make_mesh(8))
    assert 0 < eight < one / 4 or one == math.inf  # the eight share one memory


def phase_plan(views: int, stop: int, *evaluations: int) -> PlannedPhase:
    phase = Phase("head", "1 step", [Group("head/.*", 1e-2)], cached_views=views)
    return PlannedPhase(phase, 3, stop, 0, (*evaluations, stop))


ALL_READABLE = np.ones(IMAGES, bool)


def rows_of(phase, first_step, steps, rows=None, seed=5, readable=ALL_READABLE, repeats=None):
    chunks = feature_chunks(
        readable,
        phase,
        first_step=first_step,
        steps=steps,
        rows=rows or Rows(8, 0, 8),
        seed=seed,
        repeats=repeats,
    )
    return [(chunk.row, chunk.position) for chunk in chunks]


def taken(chunks):
    """Returns the rows and positions of the real steps, concatenated."""
    row, position = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    real = (row != NO_STEP).all(axis=1)
    assert (row[~real] == NO_STEP).all()
    return row[real], position[real]


def test_chunks_follow_the_order_of_the_images_and_end_at_evaluations():
    phase = phase_plan(1, 13, 7, 9)
    chunks = rows_of(phase, 3, 3)
    assert [(row != NO_STEP).all(axis=1).sum() for row, _ in chunks] == [3, 1, 2, 3, 1]
    assert {row.shape for row, _ in chunks} == {(3, 8)}
    row, position = taken(chunks)
    np.testing.assert_array_equal(position.ravel(), np.arange(3 * 8, 13 * 8))
    names = table(IMAGES)
    for step, indices in enumerate(row, start=3):
        expected = batch_filenames(names, step, 8, 5)
        assert [names.filenames[i] for i in indices] == expected
    assert phase.chunk_steps(3) == 2  # the longest stretch has 4 steps
    assert phase.chunk_steps(100) == 4


def test_chunks_of_any_length_from_any_step_and_process_are_one_stream():
    phase = phase_plan(2, 13, 7)
    row, position = taken(rows_of(phase, 3, 4))
    for first_step, steps in ((3, 1), (5, 3), (8, 4)):
        later, places = taken(rows_of(phase, first_step, steps))
        np.testing.assert_array_equal(later, row[first_step - 3 :])
        np.testing.assert_array_equal(places, position[first_step - 3 :])
    halves = [taken(rows_of(phase, 3, 4, Rows(8, start, 4)))[0] for start in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), row)


@pytest.mark.parametrize("views", [1, 2, 4])
def test_repeated_images_follow_the_order_of_the_batches_and_take_one_view_after_another(views):
    repeats = Repeats(np.where(np.arange(IMAGES) < 5, 6.0, 1.0))
    names, phase = replace(table(IMAGES), repeats=repeats), phase_plan(views, 13, 7)
    row, _ = taken(rows_of(phase, 3, 4, repeats=repeats))
    for step, feature_rows in enumerate(row, start=3):
        expected = batch_filenames(names, step, 8, 5)
        assert [names.filenames[i // views] for i in feature_rows] == expected
    later, _ = taken(rows_of(phase, 8, 3, repeats=repeats))
    np.testing.assert_array_equal(later, row[5:])
    epoch = row.ravel()[IMAGES - 3 * 8 :][:IMAGES]  # the second
    counts = np.bincount(epoch // views, minlength=IMAGES)
    assert counts.max() >= 3
    for image in np.flatnonzero(counts):
        assert len(set(epoch[epoch // views == image] % views)) == min(counts[image], views)


def test_each_epoch_has_every_image_once_and_half_of_them_mirrored():
    phase = phase_plan(2, 3 + 30)  # eight epochs, from inside the first
    row, position = taken(rows_of(phase, 3, 10))
    epochs = {}
    for feature_row, place in zip(row.ravel(), position.ravel(), strict=True):
        epochs.setdefault(place // IMAGES, []).append(divmod(feature_row, 2))
    whole = [rows for rows in epochs.values() if len(rows) == IMAGES]
    assert len(whole) == 7
    for rows in whole:
        assert sorted(image for image, _ in rows) == list(range(IMAGES))
        assert sum(view for _, view in rows) == IMAGES // 2
    views = np.array([[view for _, view in sorted(rows)] for rows in whole])
    assert (np.ptp(views, axis=0) == 1).mean() > 0.8  # seven draws alike are one in 64
    other, _ = taken(rows_of(phase, 3, 10, seed=6))
    assert (other != row).any()


def test_skipped_images_are_replaced_as_without_the_cache(photos):
    names = tuple(path.name for path in sorted(photos.glob("*.png")))[:IMAGES]
    labels = np.arange(IMAGES, dtype=np.int8)[:, None]  # to be told apart
    broken = LabelTable(photos, ("none.png", *names[1:4], "gone.png", *names[5:]), labels, ("a",))
    reader = Reader(bad=BadImages(skip=True, limit=2))
    batches = train_batches(
        broken,
        first_step=3,
        last_step=13,
        rows=Rows(8, 0, 8),
        size=32,
        augment=Augment(),
        seed=5,
        reader=reader,
    )
    expected = np.concatenate([batch.label for batch in batches])[:, 0]
    good = readable(broken.paths, reader)
    assert list(np.flatnonzero(~good)) == [0, 4]
    row, _ = taken(rows_of(phase_plan(1, 13), 3, 4, readable=good))
    np.testing.assert_array_equal(row.ravel(), expected)


def test_the_pass_sees_each_image_once_and_its_mirror(photos):
    config = make_config(photos, "b0", views=2)
    config.augment.eval_resize = "center_crop"  # of evaluation: the training images are squashed
    names = tuple(sorted(path.name for path in photos.glob("*.png")))
    labels = np.zeros((len(names), 1), np.int8)
    splits = {
        "train": LabelTable(photos, names[:30], labels[:30], ("a",)),
        "val": LabelTable(photos, names[30:], labels[30:], ("a",)),
    }
    phase = phase_plan(2, 5)
    mesh, ramp = make_mesh(8), jnp.arange(32.0)
    variables = {"params": {"backbone": top(3)}}
    calls: list[int] = []

    def sums_from_the_left(_, images):
        calls.append(len(images))
        return jax.device_put(
            jnp.einsum("brwc,w->bc", images.astype(jnp.float32), ramp), jax.devices()[0]
        )

    made = make_features(
        sums_from_the_left,
        variables,
        jax.ShapeDtypeStruct((3,), jnp.float32),
        splits,
        phase,
        eval_spec(config),
        mesh,
        dict.fromkeys(splits, Reader()),
        threading.Event(),
    )
    assert made is not None
    of_train, of_val = made
    assert calls == [64, 64, 64]  # a batch of each view, and one of validation images
    assert of_train.inputs.shape == (30, 2, 3) and of_val.shape == (10, 3)
    assert len(of_train.inputs.sharding.device_set) == 8
    np.testing.assert_array_equal(of_train.label, labels[:30])
    # A ramp from the left and one from the right: together 31 times the image's sum.
    total = of_train.inputs.sum(axis=1) / 31
    direct = {}
    for resize in ("squash", "center_crop"):
        augment = Augment(eval_resize=resize)
        (images,) = eval_batches(
            [str(photos / name) for name in names], rows=Rows(40, 0, 40), size=32, augment=augment
        )
        direct[resize] = images.astype(np.float32)
    sums = direct["squash"][:30].sum(axis=(1, 2))
    np.testing.assert_allclose(total, sums, rtol=1e-5)
    plain = np.einsum("brwc,w->bc", direct["squash"][:30], np.arange(32.0))
    np.testing.assert_allclose(of_train.inputs[:, 0], plain, rtol=1e-5)
    val = np.einsum("brwc,w->bc", direct["center_crop"][30:], np.arange(32.0))
    np.testing.assert_allclose(of_val, val, rtol=1e-5)


@pytest.mark.parametrize(("views", "resize"), [(4, "center_crop"), (8, "letterbox")])
def test_the_views_are_the_symmetric_images_resized_as_in_training(photos, views, resize):
    """Features that are the pixels themselves, of images that evaluation squashes."""
    config = make_config(photos, "b0", views=views)
    config.augment.train_resize = resize
    names = tuple(sorted(path.name for path in photos.glob("*.png")))
    labels = np.zeros((8, 1), np.int8)
    splits = {
        split: LabelTable(photos, names[start : start + 8], labels, ("a",))
        for split, start in (("train", 0), ("val", 8))
    }
    variables: dict[str, Any] = {}
    of_train, of_val = make_features(
        lambda _, images: jax.device_put(images, jax.devices()[0]),
        variables,
        jax.ShapeDtypeStruct((32, 32, 3), jnp.uint8),
        splits,
        phase_plan(views, 5),
        eval_spec(config),
        make_mesh(8),
        dict.fromkeys(splits, Reader()),
        threading.Event(),
    )
    paths, options = splits["train"].paths, {"rows": Rows(8, 0, 8), "size": 32}
    (images,) = eval_batches(paths, augment=Augment(eval_resize=resize), **options)
    for index, image in enumerate(images):
        expected = {np.rot90(x, n).tobytes() for x in (image, image[:, ::-1]) for n in range(4)}
        found = [view.tobytes() for view in np.asarray(of_train.inputs[index])]
        assert len(set(found)) == views and set(found) <= expected
        assert found[0] == image.tobytes()
    (val,) = eval_batches(splits["val"].paths, augment=Augment(), **options)
    np.testing.assert_array_equal(of_val, val)


def test_a_sample_of_the_plain_training_features_follows_those_of_val():
    mesh = make_mesh(8)
    inputs = np.arange(6 * 2 * 3, dtype=np.float32).reshape(6, 2, 3)
    of_val = -np.ones((4, 3), np.float32)
    made = Features(inputs, np.zeros((6, 1), np.int8)), of_val
    kept, on_device = replicate(made, mesh)
    joined = with_sample(kept, on_device, np.array([1, 4]))
    np.testing.assert_array_equal(joined, np.concatenate([of_val, inputs[[1, 4], 0]]))
    assert joined.sharding.is_fully_replicated and joined.dtype == np.float32
    assert with_sample(kept, on_device, np.array([], np.int64)) is on_device
