"""Places where Python waits for values that a device computes."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator

from engine.profile.code.recording import ApiCall
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of, counted
from engine.records import Evidence

_WORDS = {
    "item": ".item()", "tolist": ".tolist()", "numpy": ".numpy()", "cpu": ".cpu()",
    "__bool__": "if tensor", "__int__": "int(tensor)", "__float__": "float(tensor)",
    "__index__": "a tensor as an index", "__complex__": "complex(tensor)",
    "__repr__": "print(tensor)", "__format__": "a tensor in a text", "__array__": "numpy(tensor)",
    "nonzero": "torch.nonzero", "unique": "torch.unique", "masked_select": "masked_select",
    "argwhere": "torch.argwhere", "__contains__": "in tensor", "equal": "torch.equal",
    "allclose": "torch.allclose", "mask": "an index by a mask", "move": "a copy to another device",
    "value": "a size that is a tensor", "positions": "torch.where without values",
}  # fmt: skip
_READ = {"item", "tolist", "numpy", "cpu", "nonzero"}


class HostSync(Rule):
    """Values fetched to Python: item(), if tensor, printing, shapes that depend on values."""

    title = "Python waits for the device"
    advice = (
        "Keep the decision on the device (torch.where, masks), fetch once after the loop, and keep"
        " printing out of forward."
    )
    theory = (
        "A GPU runs behind Python. To fetch a value everything queued before it must end, and the"
        " device then idles until Python has queued more. A compiler must cut its graph there."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Watched functions that were called, and those that are written where we do not run."""
        groups: dict[tuple[str, int], list[ApiCall]] = defaultdict(list)
        for each in seen.recording.apis:
            site = seen.line_of(each)
            if each.name in _WORDS and site is not None and seen.written_here(each):
                groups[(site.file, seen.function_line(site))].append(each)
        for (file, _), group in groups.items():
            yield _found(seen, file, group)
        yield from _read(seen)


def _found(seen: Seen, file: str, group: list[ApiCall]) -> Found:
    lines = {site.line for each in group if (site := seen.line_of(each)) is not None}
    names = Counter(_WORDS[each.name] for each in group)
    listed = ", ".join(name for name, _ in names.most_common(4))
    on_device = any(each.device != "cpu" for each in group)
    words = f"{listed}: {counted(calls_of(group), 'time')} a run."
    if not on_device:
        words += " On the CPU it only ends the operator before it; on a GPU it stops the queue."
    spent = 1e3 * sum(each.seconds * each.weight for each in group)
    own = [seen.line_ms((file, line), own_time=True) for line in lines]
    known = [each for each in own if each is not None]
    return Found(
        file, lines, words, calls=calls_of(group), modules=seen.modules(group), charge="nothing",
        time_ms=min(spent, sum(known)) if known else None,
        at_least="medium" if on_device else "low",
        evidence=(Evidence("values fetched in a run", calls_of(group), "calls"),),
    )  # fmt: skip


def _read(seen: Seen) -> Iterator[Found]:
    for function in seen.workload_functions():
        lines: dict[int, str] = {}
        for each in _inside_loops(function.node):
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
                if each.func.attr in _READ and not each.args:
                    lines[each.lineno] = _WORDS[each.func.attr]
            elif isinstance(each, ast.Call) and ast.unparse(each.func) == "print":
                lines[each.lineno] = "print"
        if lines:
            listed = ", ".join(dict.fromkeys(lines.values()))
            yield Found(
                function.file, set(lines), f"{listed} in the loop, once for each token.",
                charge="nothing", origin="own", basis="source",
            )  # fmt: skip


def _inside_loops(node: ast.AST | None) -> Iterator[ast.AST]:
    seen: set[int] = set()
    for loop in ast.walk(node or ast.Pass()):
        if isinstance(loop, ast.For | ast.While):
            for each in ast.walk(loop):
                if id(each) not in seen:
                    seen.add(id(each))
                    yield each
