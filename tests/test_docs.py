"""README and code do not part."""

import pytest

from engine import api, docs
from engine.errors import InputError


def test_the_readme_is_what_the_code_declares() -> None:
    text = docs.README.read_text(encoding="utf-8")
    assert docs.up_to_date(text) == text, "run `make docs`"


def test_every_technique_has_its_row_with_its_parameters() -> None:
    text = docs.technique_table(api.techniques())
    for each in api.techniques():
        assert f"| `{each.name}` | {each.stage} | {each.title} |" in text
        for declared in each.params:
            assert declared.name in text


def test_every_format_has_its_row() -> None:
    text = docs.README.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in api.FORMATS)


def test_missing_markers_are_told() -> None:
    with pytest.raises(InputError, match="bench:begin"):
        docs.replaced("no markers", "bench", "x")
