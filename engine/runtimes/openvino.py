"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from engine.runtimes.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from engine.optimize.technique import BuildContext
    from engine.program import Program
    from engine.records import Machine

_WEIGHT_BITS = {"int8_weights": 8, "int4_weights": 4}
# Quantizing is meant to move the outputs; beyond this they mean nothing.
_LOOSE = {"default": 0.05, "float32": 1e-3, "int8_weights": 0.5, "int8": 0.5, "int4_weights": 0.7}


class OpenVino(Runtime):
    """An OpenVINO graph compiled for this processor, with OpenVINO's own threads."""

    name: ClassVar[str] = "openvino"
    formats: ClassVar[tuple[str, ...]] = ("openvino",)

    def check(self, machine: Machine) -> tuple[str, ...]:
        """The packages must be there."""
        from engine.inference.openvino_package import absent_packages

        return absent_packages()

    def prepare(self, program: Program, context: BuildContext) -> Program:
        """Converts the graphs of the workload, makes them smaller as asked and compiles them."""
        from engine.inference import openvino_model
        from engine.inference.capturing import Capture
        from engine.inference.onnx_files import graph_names
        from engine.inference.openvino_graph import OpenVinoGraph
        from engine.inference.preparing import file_name, prepared, samples_of, threads_of

        precision = getattr(context.config, "precision", "default")
        settings = settings_of(context.config, threads_of(program))
        planned: set[str] = set()
        captures: list[Capture] = []

        def write(role: str, exported: Any, calls: Any, folder: Path) -> Path:
            model = openvino_model.converted(exported, graph_names(role, exported, calls)[0])
            if planned:
                model, count = openvino_model.with_plan(model, planned)
                if role == "forward":
                    program.notes.append(f"{count} products read planned int8 weights (NNCF).")
            else:
                samples = samples_of(role, calls, context, captures[0].names)
                model = changed(model, precision, samples)
            path = folder / file_name(role, "xml")
            openvino_model.saved(model, path)
            return path

        def take_over(captured: Capture) -> tuple[Any, Any, float]:
            captures.append(captured)
            planned.update(openvino_model.take_plan_(captured.modules()))
            tolerance = max(_LOOSE[precision], 0.1 if planned else 0.0)
            return write, lambda path: OpenVinoGraph(path, settings), tolerance

        hint = settings["INFERENCE_PRECISION_HINT"]
        program.notes.append(f"OpenVINO computes in {hint} what is not quantized.")
        if precision == "int8" and not context.calibration:
            program.notes.append(
                "There is no calibration data: ranges were seen on the workload's own inputs."
            )
        return prepared(program, context, runtime=self.name, take_over=take_over, settings=settings)


def changed(model: Any, precision: str, samples: Any) -> Any:
    """The model in the number format that was asked for; `samples` are its calibration inputs."""
    from engine.inference.openvino_model import (
        quantized,
        require_small_weights,
        with_small_weights,
    )

    if precision == "int8":
        model = quantized(model, samples)
    elif precision in _WEIGHT_BITS:
        model = with_small_weights(model, _WEIGHT_BITS[precision])
    else:
        return model
    require_small_weights(model, precision)
    return model


def settings_of(config: Any, threads: int) -> dict[str, Any]:
    """OpenVINO's properties for a step's parameters."""
    is_float32 = "float32" in (getattr(config, "precision", ""), getattr(config, "activations", ""))
    return openvino_settings(threads, is_float32=is_float32)


def openvino_settings(threads: int, *, is_float32: bool) -> dict[str, Any]:
    """OpenVINO's properties: latency first, these threads, and the number format told outright."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32" if is_float32 or not computes_bfloat16() else "bf16",
        # A thread that is bound to a core waits for whoever else runs there: 128 x 768 x 768 in
        # float32 on a busy machine took 28.1 ms bound and 1.2 ms free (best: 3.7 and 1.1).
        "ENABLE_CPU_PINNING": False,
    }


def computes_bfloat16() -> bool:
    """Whether OpenVINO has bfloat16 kernels for this processor."""
    from engine.inference.openvino_package import openvino

    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
