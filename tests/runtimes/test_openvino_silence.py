"""OpenVINO and NNCF call nobody."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

# What an interpreter tells before it looks up a name, connects, or starts another program.
_WATCHED = """
import sys
calls = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        calls.append((event, str(arguments)))
sys.addaudithook(watch)
"""
_USE = """
import torch
from engine.inference import openvino_model
from engine.inference.openvino_package import nncf, openvino
package = openvino()
package.Core()
nncf()
layer = torch.nn.Linear(32, 32).eval()
x = torch.randn(2, 32)
with torch.no_grad():
    program = torch.export.export(layer, (x,))
model = openvino_model.converted(program, ["x"])
openvino_model.with_small_weights(model.clone(), 8)
openvino_model.quantized(model, [(x,)])
assert "openvino_telemetry.main" not in sys.modules
"""


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="needs nncf")
def test_converting_and_quantizing_opens_no_socket() -> None:
    # In a process of its own: under pytest NNCF is silent anyway.
    ended = subprocess.run(
        [sys.executable, "-c", f"{_WATCHED}{_USE}\nprint(calls)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip().splitlines()[-1] == "[]"
