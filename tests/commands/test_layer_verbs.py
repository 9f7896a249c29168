"""`workbench sensitivity` and `workbench distances`: maps, mixes and where a variant parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.optimize.recipe import read_recipe
from tests.commands.test_cli import Cli, document, workbench

__all__ = ["workbench"]


def test_a_map_is_a_row_for_each_layer_with_damage_and_saving(workbench: Cli) -> None:
    status, out, _ = workbench("sensitivity", "net")
    assert status == 0
    lines = out.splitlines()
    assert "KL divergence, nats an answer" in lines[0]
    (first,) = [line for line in lines if line.startswith("blocks.0.attention.out")]
    assert "8e-05 (49.5 kB)" in first
    (head,) = [line for line in lines if line.startswith("head")]
    assert "BROKEN" in head
    assert "its channels are not free to go" in out


def test_a_limit_gives_a_recipe_that_can_be_read_and_a_check(workbench: Cli) -> None:
    found = document(workbench, "sensitivity", "net", "--max-damage", "0.01", "--check")
    mixed, check = found["mix"], found["check"]
    assert mixed["damage"] <= 0.01
    assert read_recipe(mixed["recipe"]).steps
    assert check["recipe"] == mixed["recipe"]
    assert check["measured"] == pytest.approx(1.1 * mixed["damage"])
    _, out, _ = workbench("sensitivity", "net", "--max-damage", "0.01", "--check")
    assert f"--recipe '{mixed['recipe']}'" in out
    assert "checked: the whole does" in out


def test_what_is_to_be_saved_is_in_mb_and_a_kept_layer_stays(workbench: Cli) -> None:
    found = document(workbench, "sensitivity", "net", "--save", "1.5")
    assert found["mix"]["saved_bytes"] >= 1.5e6
    layer, _ = found["mix"]["chosen"][0]
    again = document(workbench, "sensitivity", "net", "--save", "1.5", "--keep-layer", layer)
    assert layer not in dict(again["mix"]["chosen"])
    status, _, err = workbench("sensitivity", "net", "--save", "1e6")
    assert status == 2
    assert err


def test_a_forecast_measures_nothing_and_says_how_to_go_on(workbench: Cli) -> None:
    status, out, _ = workbench("sensitivity", "net", "--forecast")
    assert status == 0
    assert "3 cells are missing" in out


def test_distances_tell_where_a_variant_parts_from_the_model(workbench: Cli) -> None:
    asked = ("distances", "net", "--recipe", "dynamic_int8")
    status, out, _ = workbench(*asked)
    assert status == 0
    assert "Int8Linear in place of Linear" in out
    found = document(workbench, *asked)
    assert found["recipe"] == "dynamic_int8"
    worst = max(found["rows"], key=lambda each: each["added"])
    assert worst["name"] == "blocks.1.feed_forward.down"


def test_distances_need_a_step(workbench: Cli, tmp_path: Path) -> None:
    status, _, err = workbench("distances", "net")
    assert status == 2
    assert "needs a recipe" in err
