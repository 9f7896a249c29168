"""A model that its author leaves in training mode."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torch import nn

from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, counted
from engine.records import Evidence

_MATTERS = (nn.Dropout, nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


class MissingEval(Rule):
    """Layers that behave otherwise in training, and no eval() where the model is built."""

    title = "eval() is missing"
    advice = "End build() with `return model.eval()`, and call model.train() where you train."
    theory = (
        "In training mode dropout draws random numbers and batch norm reads and writes its running"
        " figures: slower, and other answers. The workbench has called eval() itself."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Modules left in training mode, or a build() that never leaves it."""
        if seen.opened.workload.kind == "train_step":
            return
        module = seen.opened.program.module
        matters = tuple(
            name for name, each in module.named_modules()
            if isinstance(each, _MATTERS) and getattr(each, "p", 1.0) > 0
        )  # fmt: skip
        file = str(seen.opened.extra.get("code", ""))
        tree = seen.sources.tree(file) if matters and file else None
        if tree is None or _leaves_training(tree):
            return
        build = next((each for each in seen.sources.functions(file) if each.name == "build"), None)
        if build is None:
            return
        returns = [each.lineno for each in ast.walk(build.node or ast.Pass())
                   if isinstance(each, ast.Return)]  # fmt: skip
        yield Found(
            file, {max(returns, default=build.first_line)},
            f"{counted(len(matters), 'module')} with another behaviour in training mode, in which a"
            " new model is.",
            modules=matters, calls=1.0, charge="nothing", origin="own", basis="source",
            evidence=(Evidence("modules that training mode changes", float(len(matters)),
                               "modules", matters),),
        )  # fmt: skip


def _leaves_training(tree: ast.Module) -> bool:
    called = [
        each.func.attr
        for each in ast.walk(tree)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)
    ]
    return "eval" in called or "train" in called
