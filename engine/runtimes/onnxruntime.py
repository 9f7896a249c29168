"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from engine.runtimes.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from engine.optimize.technique import BuildContext
    from engine.program import Program
    from engine.records import Machine

# Quantizing is meant to move the outputs; beyond this they mean nothing.
_LOOSE = {"float32": 1e-3, "int8_dynamic": 0.5, "int8_blocks": 0.5, "int4_blocks": 0.7}
# An activation at the border between two levels is rounded to the other by another order of sums.
_ROUNDED = 5e-2


class OnnxRuntime(Runtime):
    """An ONNX graph with its operators fused, run by ONNX Runtime's own kernels and threads."""

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[tuple[str, ...]] = ("onnx",)

    def check(self, machine: Machine) -> tuple[str, ...]:
        """The packages must be there."""
        from engine.inference.onnx_files import absent_packages

        return absent_packages()

    def prepare(self, program: Program, context: BuildContext) -> Program:
        """Writes the graphs of the workload, quantizes them as asked and loads them."""
        from engine.inference import onnx_files
        from engine.inference.capturing import Capture
        from engine.inference.onnx_int8 import realize_int8_
        from engine.inference.onnx_session import OnnxGraph
        from engine.inference.preparing import file_name, prepared, threads_of

        precision = getattr(context.config, "precision", "float32")
        change = CHANGES[precision]
        threads = threads_of(program)

        def write(role: str, exported: Any, calls: Any, folder: Path) -> Path:
            path = folder / file_name(role, "onnx")
            inputs, outputs = onnx_files.graph_names(role, exported, calls)
            onnx_files.write_onnx(exported, path, inputs=inputs, outputs=outputs)
            change(path)
            if precision != "float32":
                onnx_files.require_small_weights(path, precision)
            return path

        def take_over(captured: Capture) -> tuple[Any, Any, float]:
            made: dict[int, Any] = {}
            found = [realize_int8_(each, made) for each in captured.modules()]
            if made:
                program.notes.append(
                    f"{len(made)} planned int8 layers are run by ONNX Runtime's MatMulInteger."
                )
            tolerance = max(_LOOSE[precision], _ROUNDED if any(found) else 0.0)
            return write, lambda path: OnnxGraph(path, threads), tolerance

        return prepared(
            program, context, runtime=self.name, take_over=take_over,
            settings={"threads": threads},
        )  # fmt: skip


def _nothing(path: Path) -> None:
    """The file as it is."""


def _dynamic(path: Path) -> None:
    from engine.inference.onnx_files import quantize_dynamically

    quantize_dynamically(path)


def _blocks_of_8(path: Path) -> None:
    from engine.inference.onnx_files import quantize_in_blocks

    quantize_in_blocks(path, 8)


def _blocks_of_4(path: Path) -> None:
    from engine.inference.onnx_files import quantize_in_blocks

    quantize_in_blocks(path, 4)


CHANGES = {
    "float32": _nothing,
    "int8_dynamic": _dynamic,
    "int8_blocks": _blocks_of_8,
    "int4_blocks": _blocks_of_4,
}
