"""The views of the page Structure."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from engine.records import ModelGraph, RooflineDot, WeightStatistics, replace
from engine.store import Store
from tests.workbench import fixture_store, fixture_structure
from tests.workbench.conftest import Open, ToldJobs
from tests.workbench.test_pages import text_of
from workbench.components import graph_data
from workbench.views.structure import roofline, weight_charts

STUDY = fixture_store.study().id


@pytest.fixture
def full(filled: Store) -> Store:
    """The store with a graph, ceilings and weight statistics as well."""
    fixture_structure.fill(filled)
    return filled


def view(open_page: Open, name: str) -> AppTest:
    app = open_page("structure", STUDY)
    if name != "Graph":
        app.button_group(key="structure_view").set_value(name).run()
    assert not app.exception
    return app


def choose(app: AppTest, module: str) -> AppTest:
    app.session_state["workbench"].module = module
    return app.run()


def test_the_graph_tells_its_source_and_what_was_folded(full: Store, open_page: Open) -> None:
    said = text_of(view(open_page, "Graph"))
    assert "the exported program in 1.2 s" in said
    recorded = replace(
        fixture_structure.graph(), source="recorded run", reason="a cache in the output", folded=70
    )
    full.put("graph", STUDY, recorded, study=STUDY)
    said = text_of(view(open_page, "Graph"))
    assert "torch.export cannot read this model: a cache in the output." in said
    assert "70 operators of the deepest modules are folded" in said


def test_without_a_graph_a_button_draws_one(filled: Store, open_page: Open, told: ToldJobs) -> None:
    app = view(open_page, "Graph")
    next(each for each in app.button if each.label == "Draw the graph").click().run()
    assert told.statuses["job0"].verb == "graph"
    assert told.arguments["job0"]["request"]["reference"]["location"] == "tiny_gpt"


@pytest.mark.parametrize("name", ["Graph", "Map"])
def test_a_chosen_module_stands_in_the_table_with_its_operators(
    name: str, full: Store, open_page: Open
) -> None:
    app = choose(view(open_page, name), "blocks.2.feed_forward")
    near = app.dataframe[0].value["Path"].tolist()
    assert near == ["(model)", "blocks.2", "blocks.2.feed_forward", "blocks.2.feed_forward.up",
                    "blocks.2.feed_forward.down"]  # fmt: skip
    operators = app.dataframe[1].value
    assert set(operators["Module"]) == {
        "blocks.2.feed_forward", "blocks.2.feed_forward.up", "blocks.2.feed_forward.down",
    }  # fmt: skip
    assert "131.7 k" in text_of(app) or "132 k" in text_of(app)
    app.toggle(key="modules_near").set_value(False).run()
    assert len(app.dataframe[0].value) == len(fixture_store.profile().modules)


def test_a_link_names_the_chosen_module(full: Store, open_page: Open) -> None:
    app = choose(view(open_page, "Modules"), "blocks.1.norm1")
    assert "blocks.1.norm1" in app.query_params["module"]
    app.button(key="let_go").click().run()
    app.run()
    assert "module" not in app.query_params
    assert "Choose a row" in text_of(app)


def test_a_module_that_the_model_does_not_have_is_no_error(full: Store, open_page: Open) -> None:
    assert "Choose a row" in text_of(choose(view(open_page, "Modules"), "layers.9"))


def test_active_parameters_are_told_where_tokens_are_routed(full: Store, open_page: Open) -> None:
    counted = fixture_store.profile()
    routed = replace(
        counted,
        totals=replace(counted.totals, active_parameters=527_104),
        modules=(replace(counted.modules[0], active_parameters=527_104), *counted.modules[1:]),
    )
    full.put("profile", STUDY, routed, study=STUDY)
    app = view(open_page, "Modules")
    shown = next(each for each in app.metric if each.label == "Parameters")
    assert shown.proto.delta_description == "527 k active a token (50 %)"
    assert app.dataframe[0].value["Active"].iloc[0] == 527_104


def test_counts_alone_say_what_cannot_be_done(full: Store, open_page: Open) -> None:
    counted = fixture_store.profile(runtime=False)
    full.put("profile", STUDY, counted, study=STUDY)
    app = view(open_page, "Roofline")
    said = text_of(app)
    assert "Counts only" in said
    assert "the dots are missing" in said
    assert any(each.label == "Run it once" for each in app.button)


@pytest.mark.parametrize(
    ("name", "words"),
    [("Roofline", "cannot be run"), ("Weights", "There are no weights to look at"), ("Graph", "")],
)
def test_a_configuration_without_weights_offers_nothing_that_needs_them(
    name: str, words: str, full: Store, open_page: Open
) -> None:
    counted = fixture_store.profile(runtime=False)
    bare = replace(counted.study.model, has_weights=False)
    study = replace(counted.study, model=bare)
    full.put("study", STUDY, study, study=STUDY)
    full.put("profile", STUDY, replace(counted, study=study), study=STUDY)
    full.remove("weights", STUDY)
    app = view(open_page, name)
    said = text_of(app)
    assert "A configuration without weights" in said
    assert words in said
    assert not {each.label for each in app.button} & {"Run it once", "Look at the weights"}


def test_the_roofline_names_the_worst_large_dot(full: Store, open_page: Open) -> None:
    app = view(open_page, "Roofline")
    said = text_of(app)
    assert "Test processor" in said
    assert "with 1 threads" not in said
    assert "5 min ago" in said
    assert "Most time is left at" in said
    rows = app.dataframe[0].value
    assert set(rows["Phase"]) == {"decode"}
    # min(100 GFLOP/s, intensity * 10 GB/s)
    expected = rows["FLOP/B"].mul(10).clip(upper=100)
    assert rows["Attainable"].tolist() == pytest.approx(expected.tolist())
    app.button_group(key="roof_dots").set_value("Operators").run()
    assert "aten::addmm" in set(app.dataframe[0].value["Operator"])


def test_the_worst_dot_is_the_one_that_loses_most_time() -> None:
    def dot(name: str, time_ms: float, share: float) -> RooflineDot:
        return RooflineDot(name, "Linear", "forward", "float32", 1, 1, 1.0, time_ms, 1.0, 1.0,
                           share, "memory")  # fmt: skip

    dots = [dot("slow", 40, 0.5), dot("tiny", 0.5, 0.01), dot("long", 60, 0.8), dot("at", 9, 1.0)]
    worst = roofline.worst_dot(dots)
    assert worst is not None
    assert worst.name == "slow"  # loses 20 of 40 ms; long loses 12, tiny is below 3 %
    assert roofline.worst_dot([dot("at", 9, 1.0)]) is None


def test_a_machine_that_is_not_measured_offers_to_be(
    filled: Store, open_page: Open, told: ToldJobs
) -> None:
    app = view(open_page, "Roofline")
    app.button(key="calibrate").click().run()
    assert told.statuses["job0"].verb == "calibrate"
    assert told.arguments["job0"] == {"device": "cpu"}


def test_ceilings_of_another_machine_are_not_measured_here(filled: Store, open_page: Open) -> None:
    counted = fixture_store.profile()
    elsewhere = replace(counted.study.machine, id="elsewhere", name="node7")
    study = replace(counted.study, machine=elsewhere)
    filled.put("profile", STUDY, replace(counted, study=study), study=STUDY)
    app = view(open_page, "Roofline")
    assert "node7: ceilings unknown" in text_of(app)
    assert not [each for each in app.button if each.key == "calibrate"]


def test_weights_show_figures_and_tied_tensors(full: Store, open_page: Open) -> None:
    app = view(open_page, "Weights")
    table = app.dataframe[0].value
    assert len(table) == 9  # two matrices in four layers, and the head
    assert table["Rank share"].iloc[0] == 96 / 128
    assert "tied with embedding.weight" in table["Note"].iloc[-1]
    assert app.dataframe[1].value["Tensors"].tolist() == ["embedding.weight, head.weight"]
    said = text_of(app)
    assert "`feed_forward.down.weight` in layer 3 (18)" in said  # 6 + 4 * 3
    assert "##### `blocks.3.feed_forward.down.weight`" in said  # the one with the largest outlier
    app.button_group(key="weights_amount").set_value("Effective rank").run()
    assert not app.exception


def test_not_a_number_is_an_error_that_names_the_tensor(full: Store, open_page: Open) -> None:
    full.put("weights", STUDY, fixture_structure.weights(nan=3), study=STUDY)
    app = view(open_page, "Weights")
    assert "`blocks.1.feed_forward.down.weight` (3 NaN, 0 Inf)" in app.error[0].value


def test_weights_of_a_configuration_alone_say_so(full: Store, open_page: Open) -> None:
    found = fixture_structure.weights()
    bare = tuple(
        replace(each, histogram=None, rank=None, max_over_std=None, skipped="no values")
        for each in found.tensors
    )
    full.put("weights", STUDY, replace(found, tensors=bare, is_meta=True), study=STUDY)
    app = view(open_page, "Weights")
    assert "from a configuration alone" in text_of(app)


def test_a_button_looks_at_the_weights(filled: Store, open_page: Open, told: ToldJobs) -> None:
    app = view(open_page, "Weights")
    app.button(key="weigh").click().run()
    assert told.statuses["job0"].verb == "weights"


def test_roles_are_compared_where_they_stand_in_several_layers() -> None:
    roles = weight_charts.roles_by_layer(fixture_structure.weights().tensors)
    assert set(roles) == {"feed_forward.up.weight", "feed_forward.down.weight"}
    assert [at for at, _ in roles["feed_forward.up.weight"]] == [0, 1, 2, 3]


def test_records_of_the_fixture_are_what_the_store_gives_back(full: Store) -> None:
    assert full.get("graph", STUDY, ModelGraph) == fixture_structure.graph()
    assert full.get("weights", STUDY, WeightStatistics) is not None
    assert graph_data.timed_phases(fixture_structure.graph(), fixture_store.profile())
