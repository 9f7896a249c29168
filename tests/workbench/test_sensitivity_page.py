"""The map of layers by schemes, the mix within a limit, and layers side by side."""

from __future__ import annotations

from typing import Any

from streamlit.testing.v1 import AppTest

from engine import api
from engine.records import Recipe, Step
from engine.store import Store
from tests.workbench import fixture_layers, fixture_store
from tests.workbench.conftest import Open, ToldJobs
from tests.workbench.test_pages import text_of

STUDY = fixture_store.study().id


def limit(app: AppTest) -> Any:
    return next(each for each in app.select_slider if "all layers together" in each.label)


def recipe_of(app: AppTest) -> str:
    return str(next(each.value for each in app.code if "exclude" in each.value))


def test_without_a_map_the_button_starts_one_with_the_chosen_schemes(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("sensitivity", STUDY)
    assert "No layer has been tried yet" in text_of(app)
    app.number_input(key="sensitivity_rank").set_value(30)
    next(e for e in app.button if e.label == "Measure the map").click().run()
    assert not app.exception
    (job,) = told.arguments.values()
    assert job["schemes"] == ["int8", "int4", "prune=0.25", "rank=0.3"]
    assert job["examples"] == 16


def test_the_map_shows_what_hurts_most_and_what_was_left_out(
    filled: Store, open_page: Open
) -> None:
    fixture_layers.fill(filled)
    app = open_page("sensitivity", STUDY)
    assert not app.exception
    assert not app.error
    shown = {each.label: each.value for each in app.metric}
    assert shown["Hurts most"] == "0.8"  # 4e-2 * 4 blocks * 5
    assert "2 Embedding" in text_of(app)
    assert "1 in all: head (int4)" in text_of(app)
    table = app.dataframe[0].value
    assert table["Inputs max/rms"].max() == 30.0
    assert table["Weight channels"].tolist()[0] == "1 of 128: 3"


def test_the_slider_solves_for_the_mix_and_puts_it_into_the_recipe(
    filled: Store, open_page: Open
) -> None:
    found = fixture_layers.fill(filled)
    app = open_page("sensitivity", STUDY)
    slider = limit(app)
    smallest = slider.options[1]
    slider.set_value(_damages(found)[1]).run()
    assert smallest.startswith("2")  # the least damage: 1 block from the end * 1 * 2e-5
    assert "dynamic_int8" in recipe_of(app)
    assert "weight_only_int" not in recipe_of(app)
    app.button(key="take_mix").click().run()
    kept = filled.get("draft", STUDY, Recipe)
    assert kept is not None
    assert [step.technique for step in kept.steps] == ["kv_cache", "dynamic_int8", "inference_mode"]


def test_a_layer_that_stays_and_a_cell_that_is_left_out_are_not_in_the_mix(
    filled: Store, open_page: Open
) -> None:
    found = fixture_layers.fill(filled)
    app = open_page("sensitivity", STUDY)
    limit(app).set_value(_damages(found)[-1]).run()
    assert "-blocks.0.attention.out" in recipe_of(app)
    stay = next(each for each in app.multiselect if "stay" in each.label)
    stay.set_value(["blocks.0.attention.out"]).run()
    assert "-blocks.0.attention.out" not in recipe_of(app)
    out = next(each for each in app.multiselect if "left out" in each.label)
    out.set_value(["blocks.3.attention.out · int4"]).run()
    assert not app.exception
    weights = next(step for step in api_steps(recipe_of(app)) if "weight_only" in step.technique)
    assert "blocks.3.attention.out" not in weights.params["exclude"]


def test_a_click_into_the_map_changes_the_same_control(filled: Store, open_page: Open) -> None:
    fixture_layers.fill(filled)
    app = open_page("sensitivity", STUDY)
    app.session_state["sensitivity_toggled"] = ["blocks.0.attention.out · int4"]
    app.session_state["sensitivity_toggled_of"] = STUDY
    app.run()
    out = next(each for each in app.multiselect if "left out" in each.label)
    assert out.value == ["blocks.0.attention.out · int4"]


def test_a_button_checks_the_sum_by_a_job(filled: Store, open_page: Open, told: ToldJobs) -> None:
    fixture_layers.fill(filled)
    app = open_page("sensitivity", STUDY)
    assert "until it is checked" in text_of(app)
    app.button(key="check_mix").click().run()
    (job,) = told.arguments.values()
    assert job["recipe"] == recipe_of(app)


def test_a_check_stands_beside_the_sum(filled: Store, open_page: Open) -> None:
    fixture_layers.fill(filled)
    app = open_page("sensitivity", STUDY)
    fixture_layers.keep_check(filled, recipe_of(app))
    app.run()
    assert "1.08 times the sum" in text_of(app)


def test_time_is_an_objective_where_there_is_an_estimate(filled: Store, open_page: Open) -> None:
    fixture_layers.fill(filled)
    app = open_page("sensitivity", STUDY)
    app.button_group(key=f"sensitivity_objective_{STUDY}").set_value("ms").run()
    assert not app.exception
    assert "µs" in str(limit(app).options) or "ms" in str(limit(app).options)


def test_compare_tells_where_a_variant_starts_to_differ_and_which_layer_adds_most(
    filled: Store, open_page: Open
) -> None:
    fixture_layers.fill(filled)
    app = open_page("compare", STUDY)
    choose = next(each for each in app.selectbox if each.label == "Variant")
    choose.set_value("kv_cache + int8").run()
    assert not app.exception
    said = text_of(app)
    assert "It starts at **`blocks.0.attention.out`** (0.1 %)" in said
    assert "`blocks.1.feed_forward.down` adds most" in said
    table = next(each.value for each in app.dataframe if "Added here" in each.value)
    assert table["Size change (KiB)"].iloc[0] < 0


def test_a_variant_that_was_not_looked_into_offers_to(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("compare", STUDY)
    app.button(key="look_inside").click().run()
    (job,) = told.arguments.values()
    assert job["recipe"] == "inference_mode"


def _damages(found: Any) -> list[float]:
    front = api.mix(found, damage=1e9).front
    assert len(front) > 40
    most = front[-1].saving
    near = [min(front, key=lambda e, at=at: abs(e.saving - most * at / 39)) for at in range(40)]
    return [each.damage for each in dict.fromkeys(near)]


def api_steps(text: str) -> tuple[Step, ...]:
    from engine.optimize.recipe import read_recipe

    return read_recipe(text).steps
