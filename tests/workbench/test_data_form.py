"""The wizard of quality data on the page Open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from engine.store import Store
from workbench import data_form

Open = Callable[..., AppTest]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    rows = [{"body": f"review {n}", "stars": n % 3} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_first_rows_columns_and_metric_go_into_the_request(
    store: Store, open_page: Open, told: Any, table: Path
) -> None:
    app = open_page("open")
    app.text_input(key="hf_location").set_value("/models/reviews")
    app.text_input(key="quality_path").set_value(str(table)).run()
    assert "no text and no labels" in app.error[0].value
    assert app.dataframe[0].value["body"][0] == "review 0"
    app.selectbox(key=f"quality_column_text_{table}").set_value("body")
    app.selectbox(key=f"quality_column_label_{table}").set_value("stars").run()
    assert not app.error
    app.selectbox(key="quality_metric").set_value("macro_f1").run()

    app.button(key="own_open").click().run()

    asked = told.arguments["job0"]["request"]["quality"]
    assert asked["path"] == str(table)
    assert asked["columns"] == {"text": "body", "label": "stars"}
    assert asked["metric"] == "macro_f1"


def test_a_missing_file_is_said_and_nothing_else_breaks(store: Store, open_page: Open) -> None:
    app = open_page("open")
    app.text_input(key="quality_path").set_value("/none/such.csv").run()
    assert "There is no file /none/such.csv" in app.error[0].value
    assert not app.exception


def test_the_tokenizer_lies_in_the_folder_or_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert data_form.tokenizer_of(str(tmp_path)) == tmp_path / "tokenizer.json"
    assert data_form.tokenizer_of(f"{tmp_path}/model.py:build") == tmp_path / "tokenizer.json"
    assert data_form.tokenizer_of("org/name") is None
    assert data_form.tokenizer_of("") is None
