"""The model graph in a browser: it opens, finds, and tells Python what is chosen."""

from __future__ import annotations

import pytest

from engine.records import GraphEdge, GraphModule, GraphNode, ModelGraph, replace
from tests.browser.conftest import Served
from tests.workbench import fixture_store, fixture_structure

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(400)]
STUDY = fixture_store.study().id


def keep(served: Served, graph: ModelGraph) -> None:
    served.store.put("graph", STUDY, graph, study=STUDY)


def test_the_graph_opens_finds_and_tells_what_is_chosen(page, served: Served) -> None:
    keep(served, fixture_structure.graph())
    page.goto(f"{served.address}/structure?study={STUDY}")
    stack = page.locator('.box.stack[data-label="blocks.0 … 3"]')
    stack.wait_for()
    # Four equal blocks are one box; open, it shows the first of them.
    page.get_by_role("button", name="Close all").click()
    assert page.locator('.box[data-label="feed_forward"]').count() == 0
    stack.locator(".toggle").click()
    inner = page.locator('.box[data-label="feed_forward"]')
    inner.wait_for()
    assert inner.get_attribute("data-name") == "blocks.0.feed_forward"

    # What is found is opened, in whichever of the blocks it stands.
    search = page.get_by_role("searchbox", name="Search modules and operators")
    search.fill("blocks.2 down")
    page.get_by_text("1 match").wait_for()
    search.press("Enter")
    page.locator('.box.chosen[data-name="blocks.2.feed_forward.down"]').wait_for()
    # Python has heard of it: the card below the table is the module's.
    page.get_by_test_id("stMarkdown").get_by_text("blocks.2.feed_forward.down").first.wait_for()

    # The other way round: the module that is let go in Python is let go in the drawing.
    page.get_by_role("button", name="Let go").click()
    page.locator(".box.chosen").wait_for(state="detached")

    # Keys walk along the edges.
    stage = page.get_by_role("application", name="Graph of the model")
    stage.focus()
    stage.press("ArrowDown")
    first = page.locator(".box.chosen").get_attribute("data-label")
    stage.press("ArrowDown")
    assert page.locator(".box.chosen").get_attribute("data-label") != first


def many_layers(layers: int) -> ModelGraph:
    """Blocks that all differ, so that nothing is folded: seven operators in each."""
    modules = [GraphModule("(model)", "Deep")]
    nodes = [GraphNode("x", 0, "input", "[1, 8]", "float32")]
    for layer in range(layers):
        modules.append(GraphModule(f"layers.{layer}", "Layer", 0, block=str(layer)))
        nodes += [GraphNode("aten::mm", layer + 1, flops=layer)] * 7
    edges = [GraphEdge(at - 1, at, "[1, 8]") for at in range(1, len(nodes))]
    return replace(
        fixture_structure.graph(), modules=tuple(modules), nodes=tuple(nodes), edges=tuple(edges),
        created=2.0,
    )  # fmt: skip


def test_two_thousand_operators_open_at_once(page, served: Served) -> None:
    keep(served, many_layers(290))  # 290 * 7 = 2030 operators
    page.goto(f"{served.address}/structure?study={STUDY}")
    page.locator('.box[data-label="layers.0"]').wait_for()
    assert page.locator(".box").count() <= 295  # closed: one box for each module
    spent = page.evaluate(
        """() => {
            const shown = document.querySelector('.stage')?.graph ?? find(document.body);
            function find(node) {
                for (const each of node.querySelectorAll('*')) {
                    const inside = each.shadowRoot?.querySelector('.stage');
                    if (inside?.graph) return inside.graph;
                }
            }
            const began = performance.now();
            new shown.constructor(document.createElement('div'), shown.data);
            return performance.now() - began;
        }"""
    )
    print(f"2030 operators drawn closed in {spent:.0f} ms")
    assert spent < 5000  # a busy machine; alone it takes a tenth of a second
