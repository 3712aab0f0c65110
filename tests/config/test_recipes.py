"""Recipes fill in what a config leaves open, and --minutes plans epochs and image size."""

import pytest

from mlcls_jax.config import Augment, Config, Data, Group, Model, Phase
from mlcls_jax.config.checks import validate
from mlcls_jax.config.recipes import (
    data_of_recipe,
    fit_minutes,
    recipe_fields,
    with_fields,
    with_recipe,
)
from mlcls_jax.models.variants import VARIANTS

DURATION, SIZE, UPPER = "phases[1].duration", "model.image_size", "phases[1].groups[1].pattern"


def filled(config: Config) -> dict:
    return with_recipe(config)[1]


@pytest.mark.parametrize("recipe", ["auto", "fast", "best", "none"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_recipe_gives_a_valid_config(recipe, variant):
    resolved, fields = with_recipe(Config(recipe=recipe, model=Model(variant=variant)))
    validate(resolved)
    assert bool(fields) == (recipe != "none")


def test_what_differs_from_the_default_is_kept():
    config = Config(augment=Augment(rand_augment=0), recipe="fast")
    config = with_fields(config, {UPPER: "backbone/top/.*"})
    assert with_recipe(config) == (config, {})


@pytest.mark.parametrize("recipe", ["auto", "fast", "best"])
def test_a_recipe_that_was_filled_in_changes_nothing_more(recipe):
    once, _ = with_recipe(Config(recipe=recipe))
    assert with_recipe(once) == (once, {})


def test_fast_trains_the_last_two_stages():
    fields = recipe_fields("fast", "v2s", on_images=True)
    assert fields[UPPER] == "backbone/(stage5|stage6|top)/.*"


def test_the_strength_of_rand_augment_goes_with_its_operations():
    assert "augment.magnitude" not in filled(Config(augment=Augment(rand_augment=3)))
    assert filled(Config())["augment.magnitude"] == 5.0


def test_augmentation_needs_a_phase_that_trains_on_images():
    resolved, fields = with_recipe(with_fields(Config(), {DURATION: "0 steps"}))
    validate(resolved)
    assert fields == {"augment.rand_augment": 0}


def test_a_run_that_continues_keeps_what_its_recipe_set():
    run, _ = with_recipe(Config())
    assert with_recipe(Config(), stored=run)[0] == run
    before = Config(augment=Augment(rand_augment=1))  # of a version with another recipe
    assert with_recipe(Config(), stored=before)[0] == before


def test_best_trains_on_all_images_after_the_folds():
    data = data_of_recipe("best", Data())
    assert (data.folds, data.refit) == (5, True)
    assert data_of_recipe("best", Data(folds=3)).folds == 3
    one = data_of_recipe("best", Data(fold=4))
    assert (one.folds, one.refit) == (5, False)
    assert data_of_recipe("auto", Data()) == Data()
    validate(Config(recipe="best", data=Data(fold=4, csv="labels.csv")))
    with pytest.raises(ValueError, match=r"data\.refit follows all folds"):
        validate(Config(recipe="best", data=Data(fold=4, refit=True, csv="labels.csv")))
    with pytest.raises(ValueError, match=r"data\.fold is 5; it must be -1 \(all folds\) to 4"):
        validate(Config(recipe="best", data=Data(fold=5, csv="labels.csv")))


@pytest.mark.parametrize("field", ["data.val_csv", "data.val_fraction", "phases[1].patience"])
def test_best_refuses_what_chooses_by_val_images(field):
    value = {"data.val_csv": "val.csv", "data.val_fraction": 0.1, "phases[1].patience": 3}[field]
    config = with_fields(Config(recipe="best"), {"data.csv": "labels.csv", field: value})
    with pytest.raises(ValueError, match="recipe is 'best', which trains folds and then on all"):
        validate(config)


@pytest.mark.parametrize("fields", [{"recipe": "fast"}, {"minutes": 5.0}])
def test_a_plan_needs_the_default_phases(fields):
    phases = [Phase("all", "3 epochs", [Group(".*", 1e-3)])]
    with pytest.raises(ValueError, match="which needs the default phases head and finetune"):
        validate(with_fields(Config(phases=phases), fields))
    validate(with_fields(Config(), fields))


def test_minutes_have_nothing_to_plan_without_fine_tuning():
    with pytest.raises(ValueError, match="minutes is 5, but phase 'finetune' lasts 0 steps"):
        validate(with_fields(Config(minutes=5), {DURATION: "0 steps"}))


def test_minutes_plan_as_many_epochs_as_fit():
    assert fit_minutes(119, 10, epochs=12, image_size=224) == {DURATION: "11 epochs"}


@pytest.mark.parametrize("epochs", [0.5, 1, 2.6, 12])
def test_what_fits_is_kept(epochs):
    assert fit_minutes(120, 10, epochs=epochs, image_size=224) == {}


def test_few_minutes_make_the_images_smaller():
    # 15 s are three quarters of two epochs: 224 * sqrt(3 / 4) = 194
    fields = fit_minutes(15, 10, epochs=24, image_size=224)
    assert fields == {DURATION: "2 epochs", SIZE: 192}
    assert fit_minutes(5, 10, epochs=0.75, image_size=224) == {DURATION: "0.75 epochs", SIZE: 160}


@pytest.mark.parametrize("seconds", [5, 0, -30])
def test_too_few_minutes_have_no_plan(seconds):
    assert fit_minutes(seconds, 10, epochs=24, image_size=224) is None
