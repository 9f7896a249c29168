"""torch.compile, torchao, ONNX Runtime and OpenVINO used alone, as their own docs show.

Nothing here uses the workbench's runtimes: these are what it is held against. Each entry takes a
case and gives a function of the ids.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.measure.built import Built
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.program import ExecutionContext, Program, logits_of
from engine.records import Workload
from tests.benchmarks.peer_models import THREADS, Case, answer, case

Run = Callable[[Tensor], Any]


class _Called(nn.Module):
    """A function of ids as a module that gives a tensor."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, input_ids: Tensor) -> Tensor:
        return answer(self.run(input_ids))


def build(arguments: dict[str, Any], report: Callable[[float, str], None]) -> Built:
    """An entrant: `model` and `shape`, and a `peer` by name or one of our `recipe`s.

    Its relative output error against the eager model stands in the program's notes.
    """
    made = case(arguments["model"], arguments["shape"])
    with torch.inference_mode():
        wanted = answer(made.module(made.ids)).clone()
    if "recipe" in arguments:
        variant = build_variant(
            made.opened(), read_recipe(arguments["recipe"]), machine=this_machine(), verify=False
        )
        program, workload, inputs = variant.program, made.opened().workload, {"input_ids": made.ids}
    else:
        run = PEERS[arguments["peer"]](made)
        context = ExecutionContext(gradients=False, threads=THREADS)
        program = Program(_Called(run), context=context)
        workload, inputs = Workload("forward", threads=THREADS), {"input_ids": made.ids}
    found = logits_of(program.forward(inputs)).float()
    gap = float((found - wanted).norm() / wanted.norm())
    program.notes.append(f"error={gap}")
    return Built(program, workload, inputs)


def _compiled(made: Case) -> Run:
    return torch.compile(made.module)


def _compiled_bfloat16(made: Case) -> Run:
    return torch.compile(made.module.to(torch.bfloat16))


def _torchao(made: Case, config: Any, dtype: torch.dtype = torch.float32) -> Run:
    from torchao.quantization import quantize_

    module = made.module.to(dtype)
    _conv1d_to_linear_(module)  # torchao finds nn.Linear alone
    quantize_(module, config)
    return torch.compile(module)


def _torchao_dynamic(made: Case) -> Run:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return _torchao(made, Int8DynamicActivationInt8WeightConfig())


def _torchao_weights(made: Case) -> Run:
    from torchao.quantization import Int8WeightOnlyConfig

    return _torchao(made, Int8WeightOnlyConfig(), torch.bfloat16)


def _conv1d_to_linear_(module: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if type(child).__name__ == "Conv1D":
                weight = child.get_parameter("weight")
                linear = nn.Linear(*weight.shape, device=weight.device, dtype=weight.dtype)
                linear.weight.data = weight.data.t().contiguous()
                linear.bias.data = child.get_parameter("bias").data
                parent._modules[name] = linear.requires_grad_(False)


class _Answer(nn.Module):
    """The part of a model's outputs that is compared, for exporters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: Tensor) -> Tensor:
        return answer(self.module(input_ids))


def _onnx_file(made: Case, folder: str) -> Path:
    path = Path(folder) / "model.onnx"
    torch.onnx.export(
        _Answer(made.module), (made.ids,), str(path), dynamo=True, input_names=["input_ids"],
        output_names=["y"], verbose=False,
    )  # fmt: skip
    return path


def _onnx_session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options)
    return lambda ids: torch.from_numpy(session.run(None, {"input_ids": ids.numpy()})[0])


def _onnx(made: Case) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        return _onnx_session(_onnx_file(made, folder))


def _onnx_int8(made: Case) -> Run:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            str(_onnx_file(made, folder)), str(path), weight_type=QuantType.QInt8, per_channel=True
        )
        return _onnx_session(path)


def _openvino_model(made: Case) -> Any:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino.convert_model(_Answer(made.module), example_input=made.ids)


def _openvino_run(model: Any, **settings: Any) -> Run:
    import openvino

    told = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS, **settings}
    compiled = openvino.compile_model(model, "CPU", told)
    return lambda ids: torch.from_numpy(compiled([ids.numpy()])[0])


def _openvino(made: Case) -> Run:
    return _openvino_run(_openvino_model(made))


def _openvino_float32(made: Case) -> Run:
    return _openvino_run(_openvino_model(made), INFERENCE_PRECISION_HINT="f32")


def _openvino_weights(made: Case) -> Run:
    model = _openvino_model(made)
    import nncf

    return _openvino_run(nncf.compress_weights(model))


def _openvino_int8(made: Case) -> Run:
    model = _openvino_model(made)
    import nncf

    data = nncf.Dataset([[each.numpy()] for each in made.calibration])
    quantized = nncf.quantize(
        model, data, subset_size=len(made.calibration), model_type=nncf.ModelType.TRANSFORMER
    )
    return _openvino_run(quantized)


PEERS: dict[str, Callable[[Case], Run]] = {
    "torch.compile": _compiled,
    "torch.compile bfloat16": _compiled_bfloat16,
    "torchao int8 dynamic, compile": _torchao_dynamic,
    "torchao int8 weights bfloat16, compile": _torchao_weights,
    "ONNX Runtime": _onnx,
    "ONNX Runtime int8 dynamic": _onnx_int8,
    "OpenVINO": _openvino,
    "OpenVINO float32": _openvino_float32,
    "OpenVINO int8 weights": _openvino_weights,
    "OpenVINO int8": _openvino_int8,
}
