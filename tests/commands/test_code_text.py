"""The analysis of code as a terminal shows it."""

from __future__ import annotations

from engine.commands.code_text import code_text, top_findings_text
from engine.records import GraphBreaks
from tests.workbench.fixture_code import report


def test_a_finding_has_its_place_its_cost_and_its_lines_marked() -> None:
    text = code_text(report(), name="tiny")
    assert "1. Attention written out (50.0%, 306 ms a run, high)" in text
    assert "model.py:11–12 Head.forward" in text
    assert "   >   11         scores = self.query(x)" in text
    assert "--recipe fuse_attention" in text


def test_the_annotated_source_has_calls_time_and_share() -> None:
    text = code_text(report(), name="tiny")
    (line,) = [each for each in text.splitlines() if each.rstrip().endswith("self.key(x).mT")][-1:]
    assert line.split()[:5] == ["100", "306", "ms", "50.0%", "11"]


def test_graph_breaks_are_told_in_every_state() -> None:
    words = {
        "not looked for": "not looked for", "none": "in one graph", "found": "makes 3 graphs",
        "gave up": "It was too long.",
    }  # fmt: skip
    for state, expected in words.items():
        told = GraphBreaks(state, 3, 2, words="It was too long.")  # type: ignore[arg-type]
        assert expected in code_text(report(graph_breaks=told), name="tiny")


def test_a_profile_names_the_costliest_findings() -> None:
    text = top_findings_text(report())
    assert text.splitlines()[1].split()[:2] == ["50.0%", "model.py:11–12"]
    assert top_findings_text(None) == ""
    assert top_findings_text(report(findings=())) == ""
