"""Budgets are read strictly, and an interval decides whether one is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from engine.errors import InputError
from engine.records import Budget, BudgetOutcome, ErrorRecord, replace
from engine.report.budgets import BUDGETS, drafted, hold, is_held, read_budgets
from engine.report.junit import junit_xml
from tests.workbench import fixture_store

COMPARISON = fixture_store.comparison()
INT8 = COMPARISON.variants[3]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "budget.yaml"
    path.write_text(text)
    return path


def outcome(name: str, limit: float | str) -> BudgetOutcome:
    (found,) = hold(COMPARISON, (Budget(name, limit),), recipe=INT8.recipe).outcomes
    return found


def test_a_file_of_limits_is_read_with_its_units(tmp_path: Path) -> None:
    path = written(tmp_path, "latency_ms: 12\nsize: 4 MB\nspeedup: 1.5\nrealness: REAL\n")
    assert read_budgets(path) == (
        Budget("latency_ms", 12.0), Budget("size", 4e6), Budget("speedup", 1.5),
        Budget("realness", "REAL"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one limit for each name"),
        ("- speedup", "one limit for each name"),
        ("speed: 2", "No budget is called 'speed'"),
        ("speedup: fast", "speedup must be a number"),
        ("speedup: true", "speedup must be a number"),
        ("speedup: .nan", "speedup must be a number"),
        ("size: much", "much"),
        ("realness: TRUE", "realness is one of"),
        ("quality: good", "quality is one of EQUIVALENT, BETTER"),
        ("a: [", "is not a YAML file"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_budgets(written(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        read_budgets(tmp_path / "none.yaml")


def test_the_interval_decides_and_a_limit_inside_it_is_unsure() -> None:
    # The fixture measured 5.06x [4.92, 5.22].
    assert outcome("speedup", 4.9).word == "KEPT"
    assert outcome("speedup", 5.06).word == "UNSURE"
    assert outcome("speedup", 5.3).word == "BROKEN"
    assert "5.06x [4.92x, 5.22x], at least 5.3x asked" in outcome("speedup", 5.3).words


def test_latency_has_the_interval_of_its_own_samples() -> None:
    found = outcome("latency_ms", 121.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 121.0 < found.high
    assert found.word == "UNSURE"
    assert (outcome("latency_ms", 130.0).word, outcome("latency_ms", 110.0).word) == (
        "KEPT", "BROKEN",
    )  # fmt: skip


def test_a_loss_of_quality_counts_in_the_direction_that_is_worse() -> None:
    # Perplexity 17.42 -> 17.49, [+0.06, +0.08]: 0.40 % worse, [0.34, 0.46].
    assert outcome("quality_loss_percent", 0.5).word == "KEPT"
    assert outcome("quality_loss_percent", 0.4).word == "UNSURE"
    assert outcome("quality_loss_percent", 0.3).word == "BROKEN"


def test_figures_without_an_interval_and_realness_are_held_as_they_are() -> None:
    assert outcome("size", 1.5e6).word == "KEPT"
    assert outcome("size", 1.0e6).word == "BROKEN"
    assert outcome("realness", "PARTIAL").word == "KEPT"
    assert outcome("realness", "REAL").word == "BROKEN"
    assert "dynamic_int8 is PARTIAL" in outcome("realness", "REAL").words


@pytest.mark.parametrize(
    ("verdict", "asked", "word"),
    [
        ("EQUIVALENT", "EQUIVALENT", "KEPT"), ("BETTER", "EQUIVALENT", "KEPT"),
        ("EQUIVALENT", "BETTER", "BROKEN"), ("WORSE", "EQUIVALENT", "BROKEN"),
        ("INCONCLUSIVE", "EQUIVALENT", "UNSURE"),
    ],
)  # fmt: skip
def test_the_verdict_on_quality_can_be_a_budget(verdict: Any, asked: str, word: str) -> None:
    base, *_ = COMPARISON.variants
    assert INT8.quality is not None
    judged = replace(INT8, quality=replace(INT8.quality, verdict=verdict, margin=0.1))
    compared = replace(COMPARISON, variants=(base, judged))
    (found,) = hold(compared, (Budget("quality", asked),)).outcomes
    assert found.word == word
    assert verdict in found.words


def test_what_was_not_measured_is_no_success() -> None:
    base, *others = COMPARISON.variants
    bare = replace(others[0], latency_ms=None, speedup=None, quality=None, fidelity=None, steps=(),
                   ttft_ms=None)  # fmt: skip
    failed = replace(others[0], error=ErrorRecord("OutOfMemory", "It ran out of memory."))
    words_of = {"realness": "REAL", "quality": "EQUIVALENT"}
    budgets = tuple(Budget(name, words_of.get(name, 1.0)) for name in BUDGETS)
    for variant, said in ((bare, "not measured"), (failed, "ran out of memory")):
        check = hold(replace(COMPARISON, variants=(base, variant)), budgets)
        words = {each.budget.name: each for each in check.outcomes}
        assert words["speedup"].word == "NOT MEASURED"
        assert said in words["speedup"].words
        assert not is_held(check)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match="no variant"):
        hold(COMPARISON, (Budget("speedup", 1.0),), recipe="fp8")


def test_what_is_drafted_from_a_measurement_is_kept_by_it(tmp_path: Path) -> None:
    for variant in COMPARISON.variants[2:]:
        budgets = read_budgets(written(tmp_path, drafted(variant)))
        check = hold(COMPARISON, budgets, recipe=variant.recipe)
        assert is_held(check, strict=True), check.outcomes
        assert {"speedup", "size", "quality_loss_percent", "realness"} <= {
            each.budget.name for each in check.outcomes
        }


def test_junit_has_one_case_for_each_budget() -> None:
    budgets = (Budget("speedup", 4.0), Budget("speedup", 5.06), Budget("size", 1.0))
    check = hold(COMPARISON, budgets, recipe=INT8.recipe)
    hostile = replace(check, model="a\x00b<c>&\ud800")
    suite = ElementTree.fromstring(junit_xml(hostile))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    kept, unsure, broken = suite.findall("testcase")
    assert kept.find("failure") is None
    assert unsure.find("skipped") is not None
    failure = broken.find("failure")
    assert failure is not None
    assert "weights held" in (failure.get("message") or "")
    strict = ElementTree.fromstring(junit_xml(check, strict=True))
    assert (strict.get("failures"), strict.get("skipped")) == ("2", "0")
    assert not is_held(check)
