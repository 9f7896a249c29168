"""Reports open offline, escape what strangers wrote, and say what the comparison says."""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser

import pytest

from engine import api
from engine.errors import InputError
from engine.optimize.recipe import read_recipe
from engine.records import (
    Budget,
    Comparison,
    ErrorRecord,
    ModelReference,
    QualitySpec,
    Workload,
    from_json,
    replace,
)
from engine.report.svg import Bar, Dot, bars, scatter
from tests.workbench import fixture_store

COMPARISON = fixture_store.comparison()
HOSTILE = "<script>alert(1)</script>\"'|`*[x](y)"


class Balanced(HTMLParser):
    """Every element that is opened is closed, and none fetches anything."""

    VOID = ("meta", "br", "rect", "circle", "line", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload"}, (tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    found = Balanced()
    found.feed(text)
    assert found.open == []
    return found


def hostile() -> Comparison:
    study = COMPARISON.study
    base, first, *others = COMPARISON.variants
    broken = replace(first, name=HOSTILE, error=ErrorRecord("x", HOSTILE, HOSTILE))
    texts = tuple(replace(each, texts=(HOSTILE, HOSTILE[::-1])) for each in others)
    return replace(
        COMPARISON, variants=(base, broken, *texts), warnings=(HOSTILE,),
        study=replace(study, model=replace(study.model, name=HOSTILE)),
    )  # fmt: skip


def test_the_html_report_is_one_small_file_without_scripts_or_links() -> None:
    text = api.report(
        COMPARISON, profiled=fixture_store.profile(),
        check=api.hold(COMPARISON, (Budget("speedup", 1.0),)),
    )  # fmt: skip
    found = parsed(text)
    assert "script" not in found.seen
    assert "svg" in found.seen
    assert len(text) < 200_000
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    for said in ("tiny_gpt", "FASTER", "perplexity", "What each step bought", "to wrong",
                 "Budgets", "Where the time went before", "kv_cache,dynamic_int8"):  # fmt: skip
        assert said in text, said


def test_what_strangers_wrote_is_escaped_everywhere() -> None:
    text = api.report(hostile(), profiled=fixture_store.profile())
    assert "script" not in parsed(text).seen
    assert "&lt;script&gt;" in text
    written = api.report(hostile(), format="markdown")
    assert "<script>" not in written.replace("\\<script\\>", "")
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert columns == {10}


def test_a_comparison_of_the_baseline_alone_has_a_report() -> None:
    alone = replace(COMPARISON, variants=COMPARISON.variants[:1], waterfall=(), noise_floor=None)
    parsed(api.report(alone))
    assert api.report(alone, format="markdown").startswith("### tiny\\_gpt: 0 variants")


def test_variants_without_figures_are_told_and_not_drawn() -> None:
    bare = [
        replace(each, latency_ms=None, speedup=None, quality=None, fidelity=None, texts=(),
                prediction=None)
        for each in COMPARISON.variants
    ]  # fmt: skip
    parsed(api.report(replace(COMPARISON, variants=tuple(bare), waterfall=())))


def test_markdown_has_verdicts_steps_and_budgets() -> None:
    check = api.hold(COMPARISON, (Budget("speedup", 9.0),), recipe="kv_cache,inference_mode")
    text = api.report(COMPARISON, format="markdown", check=check)
    assert "**FASTER**" in text
    assert "❌ BROKEN · speedup" in text
    assert "**PARTIAL**" in text
    assert "workbench compare tiny\\_gpt" not in text  # a command is code, not prose
    assert "workbench compare tiny_gpt --kind generate" in text


def test_json_is_the_record_itself() -> None:
    text = api.report(COMPARISON, format="json")
    assert from_json(text.encode(), Comparison) == COMPARISON


def test_the_script_asks_for_the_same_model_workload_and_recipes() -> None:
    study = COMPARISON.study
    there = replace(
        study, reference=ModelReference("it's/a model.py:build", {"layers": 2}, "w.pt"),
        workload=Workload("forward", batch=3, sequence_length=7, seed=5),
    )  # fmt: skip
    tree = ast.parse(api.report(replace(COMPARISON, study=there), format="python"))
    calls = {ast.unparse(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    asked = calls["api.request"]
    given = {each.arg: ast.literal_eval(each.value) for each in asked.keywords}
    assert ast.literal_eval(asked.args[0]) == "it's/a model.py:build"
    assert given == {
        "options": {"layers": 2}, "weights": "w.pt", "kind": "forward", "batch": 3,
        "sequence_length": 7, "device": "cpu", "seed": 5,
    }  # fmt: skip
    recipes = next(ast.literal_eval(n.value) for n in ast.walk(tree) if isinstance(n, ast.Assign)
                   and ast.unparse(n.targets[0]) == "RECIPES")  # fmt: skip
    assert recipes == [each.recipe for each in COMPARISON.variants[1:]]
    assert all(read_recipe(each).steps for each in recipes)


def test_chosen_columns_of_the_data_are_written_down() -> None:
    quality = QualitySpec("a.csv", columns={"text": "the body"})
    study = replace(COMPARISON.study, quality=quality)
    assert "--data a.csv --data-column 'text=the body'" in api.command(study, "check")
    written = api.report(replace(COMPARISON, study=study), format="python")
    assert "data_columns={'text': 'the body'}" in written


def test_the_command_is_quoted_for_a_shell() -> None:
    study = replace(COMPARISON.study, reference=ModelReference("my model.py:build"))
    assert api.command(study, "check", "--strict") == (
        "workbench check 'my model.py:build' --kind generate --batch 1 --prompt-tokens 8"
        " --new-tokens 100 --threads 1 --device cpu --strict"
    )


def test_an_unknown_report_is_refused_with_what_there_is() -> None:
    with pytest.raises(InputError, match="No report is called 'pdf'"):
        api.report(COMPARISON, format="pdf")


@pytest.mark.parametrize("values", [(), (0.0,), (1.0, 1.0), (-3.0, 1e9), (1e-9, 2e-9)])
def test_charts_are_drawn_for_any_numbers(values: tuple[float, ...]) -> None:
    rows = [Bar(f"a{i}", abs(value), "x", 0.0, abs(value)) for i, value in enumerate(values)]
    parsed(bars(rows, unit="ms", title="t"))
    dots = [Dot(f"a{i}", abs(value), value) for i, value in enumerate(values)]
    text = scatter(dots, x="x", y="y", title="t", higher_is_better=False)
    parsed(text)
    assert "nan" not in text
