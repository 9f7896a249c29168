"""What a person is shown of a data file before a model is opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from engine.models.previewing import preview
from tests.models.test_quality_data import tokenizer_file


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_columns_are_told_with_their_kind_and_role(tmp_path: Path) -> None:
    path = table(tmp_path / "a.jsonl", [{"text": f"t {n}", "label": n % 2} for n in range(9)])

    found = preview(path, {})

    assert [(each.name, each.kind, each.role) for each in found.columns] == [
        ("text", "text", "text"), ("label", "number", "label"),
    ]  # fmt: skip
    assert found.rows[0] == ("t 0", "0")
    assert len(found.rows) == 5
    assert found.metrics[:2] == ("accuracy", "macro_f1")
    assert not found.problem


def test_the_field_that_is_wrong_is_named_and_the_rows_still_show(tmp_path: Path) -> None:
    path = table(tmp_path / "a.jsonl", [{"body": "hello", "mark": 1}])

    found = preview(path, {})
    assert "no text and no labels are among them" in found.problem
    assert found.rows == (("hello", "1"),)

    found = preview(path, {"text": "mark"})
    assert "no text in the column 'mark'" in found.problem

    found = preview(path, {"text": "body", "label": "mark"})
    assert not found.problem
    assert "accuracy" in found.metrics


def test_a_metric_that_the_columns_cannot_give_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.jsonl", [{"text": "hello"}])
    found = preview(path, {}, "accuracy")
    assert "cannot give accuracy" in found.problem
    assert found.metrics == ("perplexity", "bits_per_byte", "next_token_accuracy")


def test_tokens_are_counted_by_the_models_tokenizer(tmp_path: Path) -> None:
    path = table(tmp_path / "a.jsonl", [{"text": "ab c"}, {"text": "a"}])
    coder = tokenizer_file(tmp_path / "tokenizer.json")
    # One letter or space a token.
    assert preview(path, {}, tokenizer=coder).tokens == (4, 1)


def test_arrays_are_told_by_their_shapes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.zeros((4, 3), np.float32), labels=np.arange(4))
    found = preview(tmp_path / "a.npz", {})
    assert found.rows == (("float32 [4, 3]", "int64 [4]"),)
    assert found.metrics[0] == "accuracy"


def test_only_the_beginning_of_a_large_table_is_read(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"t {n}"}) for n in range(600)]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, "no JSON at all"]))
    assert not preview(tmp_path / "a.jsonl", {}).problem


def test_a_missing_file_is_a_reason(tmp_path: Path) -> None:
    assert "There is no file" in preview(tmp_path / "none.csv", {}).problem
    assert "neither a saved dataset" in preview(tmp_path, {}).problem
