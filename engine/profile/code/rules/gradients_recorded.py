"""Gradients recorded for a backward pass that never comes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen
from engine.records import Evidence

_OFF = {"no_grad", "inference_mode", "set_grad_enabled"}


class GradientsRecorded(Rule):
    """The run's outputs need gradients although nothing is trained."""

    title = "Gradients are recorded"
    advice = "Wrap the call in `with torch.inference_mode():`, or decorate the function with it."
    theory = (
        "For every operator autograd makes a node and keeps its inputs alive until the outputs are"
        " gone: time for each operator, and memory for each activation."
    )
    technique = "inference_mode"

    def find(self, seen: Seen) -> Iterator[Found]:
        """Outputs that need gradients."""
        if seen.opened.workload.kind == "train_step" or not seen.recording.outputs_need_gradients:
            return
        loops = [each for each in seen.workload_functions() if not _switches_off(each.node)]
        root = seen.root_forward()
        if loops:
            file, line = loops[0].file, (loops[0].node or ast.Pass(lineno=1)).lineno
        elif root is not None:
            function = seen.sources.function_at(root.file, root.line)
            node = function.node if function else None
            file, line = root.file, node.lineno if node else root.line
        else:
            return
        share = seen.gradient_share
        time_ms = share * seen.run_ms if share is not None and seen.run_ms else None
        parameters = sum(each.numel() for each in seen.opened.program.module.parameters()
                         if each.requires_grad)  # fmt: skip
        words = "The outputs carry the graph of everything that made them."
        if share is not None:
            words += f" With gradients off the same calls took {share:.0%} less time."
        yield Found(
            file, {line}, words, calls=1.0, time_ms=time_ms, charge="nothing", at_least="medium",
            evidence=(Evidence("parameters that gradients are recorded for", float(parameters),
                               "parameters"),),
        )  # fmt: skip


def _switches_off(node: ast.AST | None) -> bool:
    names = (
        each.attr if isinstance(each, ast.Attribute) else each.id
        for each in ast.walk(node or ast.Pass())
        if isinstance(each, ast.Attribute | ast.Name)
    )
    return any(name in _OFF for name in names)
