"""What the model graph's drawing is given."""

from __future__ import annotations

from engine.records import replace
from tests.workbench import fixture_store, fixture_structure
from workbench.components.graph_data import graph_data, node_times, timed_phases


def test_views_are_left_out_and_edges_lead_past_them() -> None:
    graph = fixture_structure.graph()
    data = graph_data(graph, fixture_store.profile())
    names = [each["operator"] for each in data["nodes"]]
    assert "aten::transpose" not in names
    drawn = {(names[source], names[target]) for source, target, _ in data["edges"]}
    assert ("aten::addmm", "aten::gelu") in drawn
    whole = graph_data(graph, fixture_store.profile(), views=True)
    assert len(whole["nodes"]) == len(graph.nodes)
    assert whole["url"] != data["url"]  # the drawing is made anew


def test_times_are_joined_by_module_and_operator() -> None:
    graph = fixture_structure.graph()
    profile = fixture_store.profile()
    assert timed_phases(graph, profile) == ["decode"]  # this fixture's operators are all decode
    times = node_times(graph, profile.operators, ["decode"])
    by_name = {
        (graph.modules[node.module].name, node.operator): time[0]
        for node, time in zip(graph.nodes, times, strict=True)
    }
    # the fixture's addmm takes 26 ms itself and 1.1 times as much with what it calls
    assert by_name[("blocks.0.feed_forward.up", "aten::addmm")] == 1.1 * 26.0
    assert by_name[("blocks.0", "aten::add")] is None  # nothing was measured: not zero


def test_an_operator_that_is_called_twice_shares_its_time() -> None:
    graph = fixture_structure.graph()
    twice = replace(graph, nodes=(*graph.nodes, graph.nodes[3]))
    (first, last) = (
        node_times(twice, fixture_store.profile().operators, ["decode"])[index]
        for index in (3, len(graph.nodes))
    )
    assert first == last == [1.1 * 26.0 / 2]


def test_counts_alone_have_no_phases() -> None:
    counted = fixture_store.profile(runtime=False)
    data = graph_data(fixture_structure.graph(), counted)
    assert data["phases"] == []
    assert all(each["times"] == [] for each in data["nodes"])
