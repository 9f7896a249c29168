"""Layers with kernels of their own stay whole in written source, and run the same kernels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.export.cases import FlatCalls, FlatForward
from engine.export.codegen import write_model
from engine.export.graphs import plain_graphs
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from tests.optimize.models_to_build import FeedForward, Images, opened

_CHECK = """
import sys; from pathlib import Path; import torch; from safetensors.torch import load_file
sys.path.insert(0, sys.argv[1]); import model as written
made = written.build(Path(sys.argv[1])); case = load_file(Path(sys.argv[1]) / "case")
with torch.profiler.profile() as seen: y = made.forward_flat(case["x"])
y = y[0] if isinstance(y, (tuple, list)) else y
assert any(sys.argv[2] in each.name for each in seen.events()), "no int8 kernel"
print(float((y - case["y"]).abs().max()))
"""


@pytest.mark.parametrize(
    ("module", "shape", "recipe", "kernel"),
    [
        (Images, (8, 1, 8, 8), "static_int8:min_features=1:min_channels=1", "qconv2d_pointwise"),
        (FeedForward, (32, 16), "static_int8:min_features=1", "qlinear_pointwise"),
        (FeedForward, (32, 16), "dynamic_int8:min_features=1", "linear"),
    ],
)
def test_written_source_runs_the_same_kernels_without_this_project(
    module: type[nn.Module], shape: tuple[int, ...], recipe: str, kernel: str, tmp_path: Path
) -> None:
    x: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(2)).abs()
    model = opened(module(), (x,), calibration=((x,), (x,)))
    program = build_variant(model, read_recipe(recipe), machine=this_machine()).program
    calls = FlatCalls("forward", FlatForward(program.module, None, {}), None, ("x",), (x,), 1)
    with torch.no_grad():
        graphs = {"forward_flat": plain_graphs(calls)["forward"]}
        written = write_model(graphs, title="m.")
        expected = program.forward((x,))
    save_file(written.tensors, tmp_path / "model.safetensors")
    save_file({"x": x, "y": expected.detach()}, tmp_path / "case")
    (tmp_path / "model.py").write_text(written.source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, str(tmp_path), kernel],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The same kernels on the same numbers.
    assert float(done.stdout.split()[-1]) < 1e-5
