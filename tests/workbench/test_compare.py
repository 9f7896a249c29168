"""The page Compare: verdicts on quality, limits, examples, the matrix of workloads, its link."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from engine.measure.pareto import sweet_spot
from engine.records import Interval, PartedPrompt, VariantDamage, VariantResult, replace
from engine.store import Store
from tests.workbench import fixture_store
from tests.workbench.conftest import Open, ToldJobs
from tests.workbench.test_pages import text_of
from workbench.views import compare, workload_matrix
from workbench.views.damage import parted_html

STUDY = fixture_store.study().id


def html_of(app: AppTest) -> str:
    return "\n".join(str(each.body) for each in app.get("html"))


def with_quality(store: Store, **changes: object) -> None:
    """The int8 variant's quality is found to be something else."""
    found = fixture_store.comparison()
    *others, last = found.variants
    assert last.quality is not None
    judged = replace(last, quality=replace(last.quality, **changes))
    store.put("comparison", found.id, replace(found, variants=(*others, judged)), study=STUDY)


def test_each_variant_s_quality_gets_its_word_interval_and_flips(
    filled: Store, open_page: Open
) -> None:
    app = open_page("compare", STUDY)
    assert not app.exception
    said = text_of(app)
    assert "beyond a margin of 0.174 it counts" in said
    assert "+0.07 (95 % +0.06 to +0.08), margin 0.174" in said
    assert "answers: 44 to wrong, 27 to right (McNemar p = 0.057)" in said
    frame = next(each for each in app.dataframe if "Proved" in each.value).value
    assert frame["Proved"].tolist() == ["–", "EQUIVALENT", "EQUIVALENT", "EQUIVALENT"]


def test_an_open_verdict_says_how_many_more_samples_would_tell(
    filled: Store, open_page: Open
) -> None:
    with_quality(filled, verdict="INCONCLUSIVE", samples_needed=1000)
    app = open_page("compare", STUDY)
    # 1,000 less the 412 that there are: 588, two digits of it, rounded up.
    assert "**about 590 more samples would tell**" in text_of(app)


def test_the_limits_mark_the_fastest_variant_inside_both(filled: Store, open_page: Open) -> None:
    app = open_page("compare", STUDY)
    assert "Sweet spot: **kv_cache**" in text_of(app)
    limit = next(each for each in app.slider if str(each.key).startswith("latency_limit"))
    limit.set_value(90.0).run()
    assert not app.exception
    assert "No variant stays inside both limits" in text_of(app)


def test_a_quality_limit_shuts_out_who_loses_more() -> None:
    points = [(10.0, 0.95), (4.0, 0.945), (2.0, 0.90)]
    assert sweet_spot(points, latency_limit=10, quality_limit=0.94) == 1
    assert sweet_spot(points, latency_limit=10, quality_limit=0.90) == 2
    assert sweet_spot(points, latency_limit=3, quality_limit=0.94) is None
    # Of a perplexity less is better; a limit that equals a value lets it in.
    worse = [(10.0, 17.4), (4.0, 17.6), (2.0, 19.0)]
    limits = {"latency_limit": 10.0, "quality_limit": 17.6}
    assert sweet_spot(worse, higher_is_better=False, **limits) == 1


def test_flips_prompts_and_tokens_are_shown_with_their_examples(
    filled: Store, open_page: Open
) -> None:
    app = open_page("compare", STUDY)
    assert [each.label for each in app.tabs] == [
        "Flipped answers (71)", "Prompts that part (7)", "KL along the tokens",
    ]  # fmt: skip
    said = text_of(app)
    assert "Right before, wrong now" in said
    assert "68 more are not shown" in said
    assert "They part at new token 18 of 100" in said
    assert "0.05 after token" in said
    page = html_of(app)
    assert "now <code>␣&lt;b&gt;</code> 41 %" in page  # a token is never markup
    assert "read until <mark>the end.</mark>" in page


def test_the_mark_stands_where_the_two_texts_part() -> None:
    each = PartedPrompt(0, "<p>", "the cat", "the dog", 1, 2)
    shown = parted_html(each, each.after)
    assert '<span class="asked">&lt;p&gt;</span>the <mark>dog</mark>' in shown
    assert "<mark>" not in parted_html(replace(each, after="the cat, too"), each.before)


def test_confusions_show_what_changed(filled: Store, open_page: Open) -> None:
    damage = fixture_store.damage()
    counts = VariantDamage(
        "kv_cache", confusion_before=((9, 1), (0, 10)), confusion_after=((7, 3), (0, 10))
    )
    filled.put("damage", damage.id, replace(damage, variants=(counts,)), study=STUDY)
    app = open_page("compare", STUDY)
    assert not app.exception
    assert [each.label for each in app.tabs] == ["Confusion"]
    assert "the diagonal holds the right ones, -2 in all" in text_of(app)
    # There are no prompts in it: the texts stand in their own card.
    assert "Texts side by side" in text_of(app)


def test_a_comparison_without_examples_shows_its_texts(filled: Store, open_page: Open) -> None:
    filled.remove("damage", fixture_store.comparison().id)
    app = open_page("compare", STUDY)
    assert not app.exception
    assert "What it did to the answers" not in text_of(app)
    assert "Texts side by side" in text_of(app)


def test_a_cell_of_the_matrix_is_measured_by_a_click(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("compare", STUDY)
    app.button(key="cell_4_16").click().run()
    assert not app.exception
    (arguments,) = told.arguments.values()
    assert arguments["of"] == STUDY
    assert arguments["recipes"] == ["kv_cache,dynamic_int8,inference_mode"]
    workload = arguments["request"]["workload"]
    sizes = [workload[name] for name in ("batch", "prompt_tokens", "new_tokens")]
    assert sizes == [4, 16, 100]
    assert app.button(key="cell_4_16").disabled
    assert app.button(key="cell_4_16").label == "under way"
    assert not app.button(key="cell_8_16").disabled


def test_cells_are_found_again_by_workload_and_recipe() -> None:
    found = fixture_store.comparison()
    variant = found.variants[2]
    larger = replace(found.study, workload=replace(found.study.workload, batch=8))
    cell = replace(found, id="cell", study=larger)
    strange = replace(
        cell, study=replace(larger, workload=replace(larger.workload, new_tokens=7, batch=2))
    )
    other = replace(
        cell, study=replace(larger, workload=replace(larger.workload, batch=16)),
        variants=(found.variants[0], found.variants[1]),
    )  # fmt: skip
    cells = workload_matrix.measured(found, variant, (cell, strange, other))
    # Of the comparison itself and of the one cell with this recipe and these other sizes.
    assert cells.keys() == {(1, 8), (8, 8)}


def test_a_cell_shows_its_ratio_and_throughput(filled: Store, open_page: Open) -> None:
    found = fixture_store.comparison()
    larger = replace(found.study, workload=replace(found.study.workload, batch=8))

    def faster(each: VariantResult) -> VariantResult:
        return replace(each, speedup=Interval(7.77, 7.5, 8.0)) if each.speedup else each

    cell = replace(found, id="cell", study=larger, variants=tuple(map(faster, found.variants)))
    filled.put("cell", cell.id, cell, study=STUDY)
    app = open_page("compare", STUDY)
    assert not app.exception
    assert "7.77×" in text_of(app)
    assert "gives most" in text_of(app)
    assert not any(each.key == "cell_8_8" for each in app.button)


def test_the_matrix_stays_within_what_the_model_can_read() -> None:
    study = fixture_store.study()
    batches, sizes = workload_matrix.axes(study)
    assert batches == [1, 2, 4, 8, 16]
    # 8 prompt tokens times 1/4 to 4; 100 new ones must still fit into 256.
    assert sizes == [2, 4, 8, 16, 32]
    short = replace(study, model=replace(study.model, max_length=110))
    assert workload_matrix.axes(short)[1] == [2, 4, 8]
    plain = replace(study, workload=replace(study.workload, prompt_tokens=None))
    assert workload_matrix.axes(plain)[1] == [None]


def test_the_link_names_study_and_comparison_and_no_token(filled: Store, open_page: Open) -> None:
    found = fixture_store.comparison()
    shown = compare.address(found, "http://localhost:8501/compare?token=secret")
    assert shown == f"http://localhost:8501/compare?study={STUDY}&comparison={found.id}"
    app = open_page("compare", STUDY, comparison=found.id)
    assert not app.exception
    assert any(f"comparison={found.id}" in each.value for each in app.code)


def test_the_margin_of_the_form_goes_into_the_job(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("compare", STUDY)
    app.button(key="compare_recipes").click().run()
    app.number_input(key="compare_margin").set_value(2.5)
    app.button(key="compare_recipes").click()  # a run of the whole page would close the dialog
    app.button(key="compare_start").click().run()
    (arguments,) = told.arguments.values()
    assert arguments["settings"]["quality_margin"] == 0.025
