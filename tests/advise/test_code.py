"""Findings become evidence of the technique that helps, or a suggestion of their own."""

from __future__ import annotations

from engine.advise.suggesting import suggest
from engine.records import CodeReport, GraphBreaks, Suggestion
from tests.advise.profiles import machine
from tests.advise.test_suggesting import newcomer
from tests.workbench import fixture_code


def suggested(*findings: object, **changes: object) -> dict[str, Suggestion]:
    report: CodeReport = fixture_code.report(findings=findings, **changes)
    return {each.rule: each for each in suggest(newcomer(), machine(), report)}


def test_a_finding_that_a_technique_fixes_shows_its_lines_there() -> None:
    fixed = fixture_code.finding(rule="prefix_recomputed", technique="kv_cache", share=0.9)
    found = suggested(fixed)
    (cache,) = [
        each for each in found.values() if [step.technique for step in each.steps] == ["kv_cache"]
    ]
    assert cache.places == (fixed.place,)
    assert 0.9 in [each.value for each in cache.evidence if each.unit == "share"]
    assert "code: prefix_recomputed" not in found


def test_a_finding_without_a_technique_tells_what_to_change() -> None:
    found = suggested(fixture_code.finding(share=0.2))["code: host_sync"]
    assert found.steps == ()
    assert found.next_step == "Keep it on the device."
    assert found.prediction is not None
    # Were the lines free, 0.8 of the time would be left.
    assert found.prediction.speedup.low == 1.0
    assert found.prediction.speedup.high == 1 / 0.8


def test_a_technique_that_is_not_offered_leaves_the_finding() -> None:
    assert "code: host_sync" in suggested(fixture_code.finding(technique="device_placement"))


def test_findings_of_one_rule_are_one_suggestion() -> None:
    found = suggested(*(fixture_code.finding(share=0.1) for _ in range(5)))["code: host_sync"]
    assert len(found.places) == 3
    assert "2 more places" in found.summary


def test_what_is_cheap_or_in_a_library_is_not_suggested() -> None:
    cheap = fixture_code.finding(severity="low", share=0.001)
    library = fixture_code.finding(rule="copies", origin="library", share=0.5)
    assert not [rule for rule in suggested(cheap, library) if rule.startswith("code:")]


def test_what_is_changed_by_hand_is_never_taken_together() -> None:
    found = suggested(fixture_code.finding(share=0.9))
    assert found["together"].steps
    assert list(found).index("together") == 0


def test_graph_breaks_stand_with_the_compiler() -> None:
    cut = fixture_code.finding(rule="graph_break", share=None)
    found = suggested(cut, graph_breaks=GraphBreaks("found", 3, 2))
    compiled = [e for e in found.values() if "torch_compile" in [s.technique for s in e.steps]]
    for each in compiled:
        assert 2.0 in [fact.value for fact in each.evidence if fact.unit == "breaks"]
    assert found["code: graph_break"].places == (cut.place,)
