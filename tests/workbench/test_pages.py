"""Every page, empty, filled and in trouble."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from engine import api
from engine.records import (
    ErrorRecord,
    Pilot,
    Pilots,
    Range,
    Realness,
    Recipe,
    Step,
    StepOutcome,
    TrainingCurve,
    replace,
)
from engine.store import Store
from tests.workbench import fixture_store
from tests.workbench.conftest import PAGES, Open, ToldJobs

STUDY = fixture_store.study().id


def text_of(app: AppTest) -> str:
    """Everything that a page says."""
    kinds = ("title", "caption", "markdown", "error", "info", "warning", "success", "code")
    said = [str(each.value) for kind in kinds for each in app.get(kind)]
    return "\n".join([*said, *(str(each.label) for each in app.button)])


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_shows_every_page_without_an_error(
    page: str, store: Store, open_page: Open
) -> None:
    app = open_page(page)
    assert not app.exception
    assert app.title


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("open", "history")])
def test_without_a_study_a_page_leads_to_open(page: str, store: Store, open_page: Open) -> None:
    app = open_page(page)
    assert "No model is open" in text_of(app)
    assert any(each.label == "Open a model" for each in app.button)


@pytest.mark.parametrize("page", PAGES)
def test_a_filled_store_shows_every_page(page: str, filled: Store, open_page: Open) -> None:
    app = open_page(page, STUDY)
    assert not app.exception
    assert not app.error


def test_a_study_without_a_profile_offers_to_profile_it(store: Store, open_page: Open) -> None:
    store.put("study", STUDY, fixture_store.study(), study=STUDY)
    for page in ("structure", "runtime", "memory", "suggestions", "optimize"):
        assert any(each.label == "Profile it" for each in open_page(page, STUDY).button), page


def test_counts_alone_show_the_structure_and_ask_for_a_run(store: Store, open_page: Open) -> None:
    counted = fixture_store.profile(runtime=False)
    store.put("study", STUDY, counted.study, study=STUDY)
    store.put("profile", STUDY, counted, study=STUDY)
    assert "11.4 GFLOP" in str([each.value for each in open_page("structure", STUDY).metric])
    assert "counted but not run" in text_of(open_page("runtime", STUDY))


def test_runtime_figures_are_those_of_the_profile(filled: Store, open_page: Open) -> None:
    shown = {each.label: each.value for each in open_page("runtime", STUDY).metric}
    assert shown["Latency (median)"] == "612 ms"
    # 100 new tokens in 0.612 s
    assert shown["Throughput"] == "163 tokens/s"
    assert shown["First token (TTFT)"] == "2.9 ms"


def test_the_module_table_has_a_row_outside_modules(filled: Store, open_page: Open) -> None:
    app = open_page("runtime", STUDY)
    app.button_group(key="runtime_view").set_value("Modules").run()
    assert not app.exception
    table = app.dataframe[0].value
    outside = table[table["Module"] == "outside modules"]
    # aten::argmax 3.0 ms + aten::cat 2.5 ms
    assert outside["Total"].tolist() == [5.5]


@pytest.mark.parametrize("view", ["Map", "Modules", "Roofline", "Weights", "Not counted"])
def test_every_structure_view_renders(view: str, filled: Store, open_page: Open) -> None:
    app = open_page("structure", STUDY)
    app.button_group(key="structure_view").set_value(view).run()
    assert not app.exception


def test_the_table_of_modules_is_searched_by_all_words(filled: Store, open_page: Open) -> None:
    app = open_page("structure", STUDY)
    app.button_group(key="structure_view").set_value("Modules").run()
    app.text_input(key="modules_search").set_value("blocks.0 layernorm").run()
    assert app.dataframe[0].value["Path"].tolist() == ["blocks.0.norm1"]


def test_what_was_not_counted_is_listed(filled: Store, open_page: Open) -> None:
    app = open_page("structure", STUDY)
    app.button_group(key="structure_view").set_value("Not counted").run()
    assert "aten::multinomial" in app.dataframe[0].value["Operator"].tolist()


def test_adding_a_suggestion_puts_its_step_into_the_recipe(filled: Store, open_page: Open) -> None:
    filled.put("draft", STUDY, Recipe(), study=STUDY)
    app = open_page("suggestions", STUDY)
    app.button(key="add_kv_cache").click().run() if _has(app, "add_kv_cache") else _first(app)
    kept = filled.get("draft", STUDY, Recipe)
    assert kept is not None
    assert kept.steps


def test_a_toggle_changes_recipe_and_prediction(filled: Store, open_page: Open) -> None:
    filled.put("draft", STUDY, Recipe(), study=STUDY)
    app = open_page("optimize", STUDY)
    assert not [each for each in app.metric if each.label == "Speed-up"]
    app.toggle(key=f"on_{STUDY}_kv_cache").set_value(True).run()
    kept = filled.get("draft", STUDY, Recipe)
    assert kept is not None
    assert [step.technique for step in kept.steps] == ["kv_cache"]
    assert [each for each in app.metric if each.label == "Speed-up"]


def test_what_cannot_run_whatever_else_is_chosen_is_folded_away(
    filled: Store, open_page: Open
) -> None:
    filled.put("draft", STUDY, Recipe(), study=STUDY)
    whole = fixture_store.profile()
    cached = whole.facts | {"kv_cache": {"generates": True, "keeps_cache": True}}
    filled.put("profile", STUDY, replace(whole, facts=cached), study=STUDY)
    app = open_page("optimize", STUDY)
    (folded,) = [each for each in app.expander if "kv_cache" in each.label]
    assert folded.toggle[0].disabled
    assert not [each for each in app.expander if "inference_mode" in each.label]


def test_a_toggle_tells_what_it_would_add_to_the_recipe(filled: Store, open_page: Open) -> None:
    filled.put("draft", STUDY, Recipe(), study=STUDY)
    app = open_page("optimize", STUDY)
    assert "-badge[" in app.toggle(key=f"on_{STUDY}_kv_cache").label
    app.toggle(key=f"on_{STUDY}_kv_cache").set_value(True).run()
    assert "-badge[" not in app.toggle(key=f"on_{STUDY}_kv_cache").label
    assert "-badge[" in app.toggle(key=f"on_{STUDY}_inference_mode").label


def test_a_prediction_tells_whether_it_was_measured(filled: Store, open_page: Open) -> None:
    filled.put("draft", STUDY, Recipe((Step("kv_cache"),)), study=STUDY)
    assert "assumed, not measured here" in text_of(open_page("optimize", STUDY))
    tried = Pilot("kv_cache", 5.0, Range(5.0, 5.0), "blocks", (0, 3), 2, 4, 9, 1.0, 0.0)
    filled.put("pilots", STUDY, Pilots(STUDY, (tried,)), study=STUDY)
    app = open_page("optimize", STUDY)
    assert "this recipe, tried on a few blocks" in text_of(app)
    assert "tried on 2 of 4 blocks: kv_cache 5.00x with 1.00 of the bytes" in text_of(app)


def test_a_button_tries_the_recipe_on_a_few_blocks(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    filled.put("draft", STUDY, Recipe((Step("kv_cache"),)), study=STUDY)
    app = open_page("optimize", STUDY)
    app.button(key="refine_prediction").click().run()
    said = "\n".join(str(each.value) for each in app.sidebar.markdown)
    assert "Try kv_cache on a few blocks" in said


def test_an_empty_recipe_cannot_be_built_and_says_why(filled: Store, open_page: Open) -> None:
    filled.put("draft", STUDY, Recipe(), study=STUDY)
    app = open_page("optimize", STUDY)
    assert app.button(key="build_and_measure").disabled
    assert "The recipe is empty" in text_of(app)


def test_a_second_runtime_is_greyed_with_its_reason(filled: Store, open_page: Open) -> None:
    filled.put("draft", STUDY, Recipe(), study=STUDY)
    app = open_page("optimize", STUDY)
    app.toggle(key=f"on_{STUDY}_torch_compile").set_value(True).run()
    assert app.toggle(key=f"on_{STUDY}_aot_inductor").disabled
    assert "torch_compile" in app.toggle(key=f"on_{STUDY}_aot_inductor").help


def test_build_and_measure_submits_the_recipe(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("optimize", STUDY)
    app.button(key="build_and_measure").click().run()
    assert not app.exception
    assert told.arguments["job0"]["recipe"] == "kv_cache,inference_mode"
    assert told.arguments["job0"]["request"]["reference"]["location"] == "tiny_gpt"


def test_a_job_under_way_stands_in_the_sidebar_with_its_cancel(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("optimize", STUDY)
    app.button(key="build_and_measure").click().run()
    app.switch_page("../pages/structure.py").run()
    said = "\n".join(str(each.value) for each in app.sidebar.markdown)
    assert "Measure tiny_gpt" in said
    app.sidebar.button(key="cancel_sidebar_job0").click().run()
    assert told.cancelled == ["job0"]


def test_a_failed_job_tells_message_hint_and_detail(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("optimize", STUDY)
    app.button(key="build_and_measure").click().run()
    told.end("failed", error=ErrorRecord("OutOfMemory", "No memory is left.", "Take batch 1.", "7"))
    app.run()
    said = text_of(app)
    assert "No memory is left." in said
    assert "Take batch 1." in said
    assert any("OutOfMemory" in str(each.label) for each in app.expander)


def test_a_refresh_finds_the_job_again(filled: Store, open_page: Open, told: ToldJobs) -> None:
    open_page("optimize", STUDY).button(key="build_and_measure").click().run()
    again = open_page("optimize", STUDY)
    assert "Measure tiny_gpt" in "\n".join(str(each.value) for each in again.sidebar.markdown)


def test_code_that_is_not_trusted_asks_and_names_its_hash(
    store: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("open")
    app.button_group(key="own_kind").set_value("Python").run()
    app.text_input(key="py_location").set_value("models/mine.py:build")
    app.button(key="own_open").click().run()
    assert told.arguments["job0"]["request"]["trust"] is False
    refusal = ErrorRecord("UntrustedCode", "mine.py can run code.", "Read mine.py.", "f00d" * 16)
    told.end("failed", error=refusal)
    app.run()
    said = text_of(app)
    assert "f00d" * 16 in said
    assert "models/mine.py:build" in said
    app.button(key="trust_review").click().run()
    assert app.button(key="trust_open").disabled
    # A dialog closes with each full run of the page, which a test always makes.
    app.checkbox(key="trust_read").check()
    app.button(key="trust_review").click().run()
    app.button(key="trust_open").click()
    app.button(key="trust_review").click().run()
    assert told.arguments["job1"]["request"]["trust"] is True


def test_an_empty_place_is_refused_on_the_spot(
    store: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("open")
    app.button(key="own_open").click().run()
    assert "empty" in app.error[0].value
    assert not told.statuses


def test_a_failed_artifact_says_failed(store: Store, open_page: Open) -> None:
    fixture_store.fill(store, artifacts=False)
    failed = fixture_store.artifact(store.artifacts_folder, verdict="FAILED")
    store.put("artifact", "bad", failed, study=STUDY)
    said = text_of(open_page("export", STUDY))
    assert "did **not** prove itself" in said
    assert "FAILED" in said


def test_a_format_that_does_not_apply_says_why(filled: Store, open_page: Open) -> None:
    app = open_page("export", STUDY)
    app.radio(key="export_format").set_value("huggingface").run()
    assert app.button(key="export_start").disabled
    assert "Hugging Face folder" in text_of(app)


def test_a_variant_that_failed_does_not_take_the_page_down(store: Store, open_page: Open) -> None:
    fixture_store.fill(store)
    found = fixture_store.comparison()
    broken = replace(
        found.variants[1], latency_ms=None, speedup=None, verdict="FAILED", quality=None,
        fidelity=None, peak_tensor_bytes=None, size_bytes=None, flops=None, prediction=None,
        steps=(), texts=(), error=ErrorRecord("NumericalFailure", "Outputs are NaN.", "", ""),
    )  # fmt: skip
    store.put("comparison", found.id, replace(found, variants=(found.variants[0], broken)),
              study=STUDY)  # fmt: skip
    app = open_page("compare", STUDY)
    assert not app.exception
    assert "Outputs are NaN." in text_of(app)


def test_a_trained_variant_shows_its_loss_and_how_it_compares_to_the_whole_model(
    store: Store, open_page: Open
) -> None:
    fixture_store.fill(store)
    found = fixture_store.comparison()
    base, first, second, _ = found.variants
    learned = StepOutcome(
        Step("recover"), Realness("REAL", "1,000 of 1,000 weights were trained"), 42.0,
        curve=TrainingCurve((5, 10, 15), (0.30, 0.21, 0.18)),
    )  # fmt: skip
    quality = replace(base.quality, value=17.6, difference=0.176, difference_low=0.1,
                      difference_high=0.25)  # fmt: skip
    small = replace(first, steps=(*first.steps, learned), against_control=quality)
    dense = replace(second, name="dense, same budget", control_of=(first.name,))
    store.put("comparison", found.id, replace(found, variants=(base, small, dense)), study=STUDY)
    app = open_page("compare", STUDY)
    assert not app.exception
    said = text_of(app)
    assert "Loss 0.3 to 0.18 in 15 steps" in said
    # 0.176 above a control of 17.6 - 0.176 = 17.424 is 1.0 %.
    assert "against the whole model trained as long: +0.176, +1.0 %" in said
    assert f"A control: the whole model, trained with the parameters of {first.name}" in said
    frame = next(each for each in app.dataframe if "To dense" in each.value).value
    assert frame["Variant"].tolist()[-1] == "dense, same budget (control)"


def test_history_shows_a_failed_job_with_its_error(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("optimize", STUDY)
    app.button(key="build_and_measure").click().run()
    told.end("crashed", error=ErrorRecord("JobCrashed", "The worker died by signal 9."))
    app = open_page("history", STUDY)
    assert not app.exception
    assert any("crashed" in str(each.label) for each in app.expander)


def test_a_link_that_names_an_unknown_study_leads_to_open(filled: Store, open_page: Open) -> None:
    assert "No model is open" in text_of(open_page("structure", "0123456789abcdef"))


def _has(app: AppTest, key: str) -> bool:
    return any(each.key == key for each in app.button)


def _first(app: AppTest) -> None:
    next(each for each in app.button if str(each.key).startswith("add_")).click().run()


def test_a_model_that_was_opened_leads_on_to_runtime(
    filled: Store, open_page: Open, told: ToldJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "result", lambda job, kind, store: fixture_store.profile())
    app = open_page("open")
    app.button(key="open_tiny_gpt").click().run()
    told.end("done")
    app.run()
    app.run()
    assert not app.exception
    assert [each.value for each in app.title] == ["Runtime"]
    assert STUDY in app.query_params["study"]


def test_the_newest_outcome_stands_beside_its_toggle(filled: Store, open_page: Open) -> None:
    shown = text_of(open_page("optimize", STUDY))
    # The comparison of the fixture measured inference_mode alone, and kv_cache with it.
    assert "measured before: 1.02× on" in shown
    assert "measured before in `kv_cache,inference_mode`: 6.35× on" in shown


def test_what_failed_before_is_told_with_its_reason(filled: Store, open_page: Open) -> None:
    base, variant = fixture_store.comparison().variants[:2]
    reason = ErrorRecord("OutOfMemory", "fuse_attention ran out of memory.")
    failed = replace(variant, recipe="fuse_attention", verdict="FAILED", speedup=None, error=reason)
    later = replace(fixture_store.comparison(), id="later", variants=(base, failed))
    filled.put("comparison", "later", later, study=STUDY)
    shown = text_of(open_page("optimize", STUDY))
    assert "failed before, on" in shown
    assert "fuse_attention ran out of memory." in shown


def test_what_building_needs_is_told_before_it_starts(filled: Store, open_page: Open) -> None:
    assert "Building each variant needs" in text_of(open_page("optimize", STUDY))


def test_what_cannot_fit_is_not_built_and_says_what_to_do(
    filled: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "free_bytes", lambda: 1 << 20)
    app = open_page("optimize", STUDY)
    assert app.button(key="build_and_measure").disabled
    assert "are free: close what else holds memory" in text_of(app)


def test_a_suggestion_shows_what_came_of_it_before(filled: Store, open_page: Open) -> None:
    study = fixture_store.study()
    known = api.tried(study, store=filled)
    facts = {"inference_mode": {"gradients": True, "trainable_parameters": 9, "kind": "generate"}}
    filled.put("profile", STUDY, replace(fixture_store.profile(), facts=facts), study=STUDY)
    assert any(each.recipe == "inference_mode" for each in known)
    assert "measured before: 1.02× on" in text_of(open_page("suggestions", STUDY))
