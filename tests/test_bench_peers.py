"""The peer bench knows its entrants and chooses who plays the final."""

from __future__ import annotations

import pytest

from engine.optimize.recipe import read_recipe
from tests.benchmarks import bench_peers, peers


def test_it_names_every_peer_that_can_be_built() -> None:
    assert tuple(peers.PEERS) == bench_peers.PEERS


def test_its_recipes_can_be_read() -> None:
    for recipe in bench_peers.RECIPES:
        assert read_recipe(recipe).steps


def test_the_fastest_within_the_error_limit_play_the_final() -> None:
    heats = {"a": (0.0, 9.0), "b": (0.01, 1.0), "c": (0.0005, 5.0), "d": (0.0, 7.0)}
    assert bench_peers.finalists(heats, 0.001) == ["c", "d"]
    assert bench_peers.finalists(heats, 0.02) == ["b", "c"]


def test_an_unknown_shape_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_SHAPES", "encoder 2x2")
    with pytest.raises(ValueError, match="got 'encoder 2x2'"):
        bench_peers.run()
