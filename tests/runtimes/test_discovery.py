"""Runtimes are found like techniques."""

from __future__ import annotations

from engine.discovery import discover
from engine.runtimes.runtime import Runtime


def test_every_runtime_is_named_like_its_file() -> None:
    found = discover("engine.runtimes")
    assert {name for name in found if name != "runtime"} == {
        "eager", "inductor", "aot_inductor", "onnxruntime", "openvino",
    }  # fmt: skip
    for name, each in found.items():
        assert issubclass(each, Runtime)
        assert name == "runtime" or each.name == name
