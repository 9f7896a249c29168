"""README and code do not part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine import api, docs
from engine.errors import InputError
from engine.optimize.technique import technique, techniques
from engine.params import declared_params
from engine.technique_pages import FOLDER, page, pages, read_measured, write_pages

PAGES = docs.README.parent / FOLDER
EXAMPLE: dict[str, Any] = {
    "recipe": "dynamic_int8", "sample": "random_llama", "workload": "generate, batch 1",
    "machine": "a processor, 2 cores", "versions": "torch 2", "date": "2026-01-01",
    "verdict": "FASTER", "speedup": [2.5, 2.4, 2.6], "predicted": [1.5, 3.0],
    "latency_ms": [10.0, 4.0], "size_bytes": [100e6, 30e6], "stored_bytes": None,
    "peak_tensor_bytes": [120e6, 50e6], "relative_error": 0.012, "rounds": 30,
    "steps": [{"technique": "dynamic_int8", "realness": "REAL", "detail": "int8 kernels ran"}],
}  # fmt: skip


def test_the_readme_is_what_the_code_declares() -> None:
    text = docs.README.read_text(encoding="utf-8")
    assert docs.up_to_date(text) == text, "run `make docs`"


def test_every_technique_has_its_row_with_its_parameters() -> None:
    text = docs.technique_table(api.techniques())
    for each in api.techniques():
        link = f"[{each.title}](docs/techniques/{each.name}.md)"
        assert f"| `{each.name}` | {each.stage} | {link} |" in text
        for declared in each.params:
            assert declared.name in text


def test_every_format_has_its_row() -> None:
    text = docs.README.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in api.FORMATS)


def test_missing_markers_are_told() -> None:
    with pytest.raises(InputError, match="bench:begin"):
        docs.replaced("no markers", "bench", "x")


def test_the_pages_are_what_the_code_declares() -> None:
    wanted = pages(read_measured(PAGES))
    found = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")}
    assert found == wanted, "run `make docs`"


@pytest.mark.parametrize("name", techniques())
def test_a_page_tells_all_that_its_technique_declares(name: str) -> None:
    owner = technique(name)
    text = page(owner, None, techniques())
    assert owner.help() in text
    assert owner.theory in text
    assert all(source in text for source in owner.sources)
    assert all(f"| `{each.name}` |" in text for each in declared_params(owner.Config))
    assert all(need.lower() in text.lower() for need in owner.requires)


def test_every_link_of_the_pages_leads_to_a_page() -> None:
    wanted = pages({})
    for name, text in wanted.items():
        for target in re.findall(r"\]\(([a-z_0-9]+\.md)\)", text):
            assert target in wanted, f"{name} links to {target}"


def test_a_page_puts_the_measured_example_beside_its_prediction() -> None:
    text = page(technique("dynamic_int8"), EXAMPLE, techniques())
    assert "FASTER: 2.50x, 95 % interval 2.40 to 2.60; predicted 1.50 to 3.00" in text
    assert "on a processor, 2 cores, torch 2, 2026-01-01" in text
    assert "| latency | 10.0 ms | 4.00 ms |" in text
    assert "dynamic_int8: REAL, int8 kernels ran." in text


def test_a_page_without_figures_says_so_and_how_to_measure() -> None:
    text = page(technique("kv_cache"), None, techniques())
    assert 'Not measured yet: `make bench BENCH="techniques --only kv_cache' in text


def test_a_page_says_why_a_machine_refused_it() -> None:
    told = {key: EXAMPLE[key] for key in
            ("recipe", "sample", "workload", "machine", "versions", "date")}  # fmt: skip
    refused = {**told, "refused": "no GPU."}
    text = page(technique("dynamic_int8"), refused, techniques())
    assert "It says no there: no GPU." in text


def test_pages_of_techniques_that_are_gone_go(tmp_path: Path) -> None:
    (tmp_path / "no_such_technique.md").write_text("old", encoding="utf-8")
    write_pages(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.md")} == {"README", *techniques()}
