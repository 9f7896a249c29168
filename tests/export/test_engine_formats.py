"""What ONNX Runtime and OpenVINO ran is what is exported, and it proves itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.errors import ExportFailed
from engine.models.opened import OpenedModel
from engine.records import Workload
from tests.export.conftest import decoder, export, opened


def needs(*packages: str) -> None:
    absent = [each for each in packages if importlib.util.find_spec(each) is None]
    if absent:
        pytest.skip(f"needs {', '.join(absent)}")


def layers() -> OpenedModel:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 32))
    return opened(module, Workload(batch=2), (torch.randn(2, 256),))


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return found


def test_openvino_carries_prefill_and_step_of_an_eager_decoder(tmp_path: Path) -> None:
    needs("openvino", "nncf")
    made = export(decoder(), "inference_mode,kv_cache", "openvino", tmp_path / "out")
    assert made.verdict == "PASSED"
    assert made.max_relative_error < 1e-3
    told = manifest(tmp_path / "out")
    assert told["files"] == {"forward": "model.xml", "step": "step.xml"}
    assert told["settings"]["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(
    ("recipe", "format", "main"),
    [
        ("onnxruntime:precision=int8_dynamic", "onnx", "model.onnx"),
        ("dynamic_int8:min_features=1,onnxruntime", "onnx", "model.onnx"),
        ("openvino:precision=int8_weights:activations=float32", "openvino", "model.xml"),
    ],
)
def test_the_files_that_a_runtime_ran_are_exported(
    recipe: str, format: str, main: str, tmp_path: Path
) -> None:
    needs("onnxruntime", "onnxscript") if format == "onnx" else needs("openvino", "nncf")
    made = export(layers(), recipe, format, tmp_path / "out")
    assert made.verdict == "PASSED"
    assert Path(made.path).name == main
    # 256 * (256 + 32) weights of 4 bytes each; in 8 bits a quarter, with scales and the graph.
    weights = sum(each.stat().st_size for each in (tmp_path / "out").glob("model.[ob]*"))
    assert weights < 4 * 256 * 288 / 2


def test_a_cached_decoder_that_onnx_runtime_runs_is_exported_whole(tmp_path: Path) -> None:
    needs("onnxruntime", "onnxscript")
    made = export(decoder(), "kv_cache,onnxruntime", "onnx", tmp_path / "out")
    assert made.verdict == "PASSED"
    assert manifest(tmp_path / "out")["mode"] == "flat_cache"
    assert {"model.onnx", "step.onnx"} <= {each.name for each in (tmp_path / "out").iterdir()}


def test_planned_int8_without_its_runtime_is_refused(tmp_path: Path) -> None:
    needs("openvino", "nncf")
    with pytest.raises(ExportFailed, match=r"^openvino: Without the step openvino"):
        export(layers(), "dynamic_int8:min_features=1", "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_format_takes_no_other_runtimes_variant(tmp_path: Path) -> None:
    needs("onnxruntime", "onnxscript", "openvino")
    with pytest.raises(ExportFailed, match="run by onnxruntime"):
        export(layers(), "onnxruntime", "openvino", tmp_path / "out")
