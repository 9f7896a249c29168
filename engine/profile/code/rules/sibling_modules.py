"""Modules of the same form called one after the other on the same input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from torch import nn

from engine.profile.code.recording import ModuleCall
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen
from engine.records import Evidence


class SiblingModules(Rule):
    """One module for each head, expert or output, where one wider module would do."""

    title = "One module each where one could do all"
    advice = (
        "Put their weights into one module: one Linear that is as wide as all of them, and a view"
        " that splits its output into heads."
    )
    theory = (
        "Modules that read the same input with weights of the same shape are one product with"
        " wider weights: fewer launches, larger matrix products, the input read once."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Groups of siblings, with those inside a larger group left out."""
        modules = dict(seen.opened.program.module.named_modules())
        groups = _groups(seen, modules)
        inside = {call.number for calls in groups for call in calls}
        parents = {call.number: call.parent for call in seen.recording.calls}
        places: dict[tuple[str, int, bool], list[list[ModuleCall]]] = defaultdict(list)
        for calls in groups:
            site = seen.line_of(calls[0])
            if site is None or _below(calls[0].parent, inside, parents):
                continue
            linear = isinstance(modules[calls[0].name], nn.Linear)
            places[(site.file, seen.function_line(site), linear)].append(calls)
        for (file, _, linear), found in places.items():
            yield _found(seen, file, found, linear)


def _found(seen: Seen, file: str, groups: list[list[ModuleCall]], linear: bool) -> Found:
    calls = [each for group in groups for each in group]
    names = tuple(dict.fromkeys(each.name for each in calls))
    lines = {site.line for each in calls if (site := seen.line_of(each)) is not None}
    kind = type(dict(seen.opened.program.module.named_modules())[calls[0].name]).__name__
    size = max(len(group) for group in groups)
    within = set(names)
    nodes = [each for each in seen.recording.nodes if _inside(each.module, within)]
    return Found(
        file, lines,
        f"{size} {kind} modules read the same input, one after the other.", nodes=nodes,
        calls=sum(each.weight for each in calls), modules=names,
        charge="operators" if linear else "lines",
        title="Linear layers on the same input" if linear
        else f"{size} {kind} modules where one could do",
        # What is won is the launches and one reading of the input, not the products.
        at_most="low" if linear else "high",
        technique=None if linear else _technique(seen, within),
        smallest_share=0.01 if linear else 0.0,
        evidence=(
            Evidence("modules that could be one", float(size), "modules", names[:size]),
            Evidence("their calls in a run", sum(each.weight for each in calls), "calls"),
        ),
    )  # fmt: skip


def _technique(seen: Seen, names: set[str]) -> str | None:
    inside = [each.op for each in seen.recording.nodes if _inside(each.module, names)]
    return "fuse_attention" if any("softmax" in each for each in inside) else None


def _inside(name: str, names: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[: size + 1]) in names for size in range(len(parts)))


def _groups(seen: Seen, modules: dict[str, nn.Module]) -> list[list[ModuleCall]]:
    found: dict[object, dict[str, ModuleCall]] = defaultdict(dict)
    for each in seen.recording.calls:
        form = _form(modules.get(each.name))
        if each.values and form is not None:
            found[(each.parent, each.values, form)].setdefault(each.name, each)
    return [list(calls.values()) for calls in found.values() if len(calls) > 1]


def _form(module: nn.Module | None) -> object:
    """What modules must share to be joined; None for those without weights."""
    if module is None or not any(True for _ in module.parameters()):
        return None
    if isinstance(module, nn.Linear):
        return ("Linear", module.in_features, module.bias is None)
    return (type(module), tuple(tuple(each.shape) for each in module.parameters()))


def _below(parent: int, inside: set[int], parents: dict[int, int]) -> bool:
    while parent:
        if parent in inside:
            return True
        parent = parents.get(parent, 0)
    return False
