"""The whole model, trained as long, stands beside every variant that was trained."""

from __future__ import annotations

from engine.measure.controls import DENSE, control_of, control_recipes, controls
from engine.optimize.recipe import read_recipe, recipe_text
from engine.records import Recipe


def control_text(recipe: str) -> str | None:
    found = control_of(read_recipe(recipe))
    return None if found is None else recipe_text(found)


def test_the_control_has_every_training_with_its_very_parameters() -> None:
    recipe = "structured_prune,recover:steps=200:seed=3,kv_cache,dynamic_int8,recover:batch=4"
    assert control_text(recipe) == "recover:steps=200:seed=3,recover:batch=4"


def test_a_distilled_student_stands_beside_the_whole_model_with_its_loss() -> None:
    # Hidden states weigh 1 in distill and 0 in recover where nothing is said.
    assert control_text("distill:depth=0.75:steps=50") == "recover:steps=50:hidden=1.0"


def test_what_does_not_train_or_only_trains_has_no_control() -> None:
    assert control_text("structured_prune") is None
    assert control_text("recover:steps=50") is None


def test_steps_that_nobody_knows_do_not_train() -> None:
    from engine.records import Step

    assert control_of(Recipe((Step("slow"),))) is None


def test_one_budget_has_one_control_and_another_its_own() -> None:
    variants = {
        "a": read_recipe("structured_prune,recover"),
        "b": read_recipe("structured_prune:ratio=0.5,recover"),
        "c": read_recipe("structured_prune,recover:steps=50"),
    }
    assert controls(variants) == {"a": DENSE, "b": DENSE, "c": f"{DENSE} #2"}
    found = control_recipes(variants)
    assert {name: recipe_text(each) for name, each in found.items()} == {
        DENSE: "recover", f"{DENSE} #2": "recover:steps=50",
    }  # fmt: skip


def test_a_variant_can_be_the_control_of_another() -> None:
    variants = {"dense": read_recipe("recover"), "small": read_recipe("structured_prune,recover")}
    assert controls(variants) == {"small": "dense"}
    assert control_recipes(variants) == {}
