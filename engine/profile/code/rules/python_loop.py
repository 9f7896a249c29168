"""Python loops that call operators on small pieces."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator

from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of, counted
from engine.profile.code.sources import Loop
from engine.records import Evidence

_MANY = 4
_SMALL_ELEMENTS = 1 << 18


class PythonLoop(Rule):
    """A loop in Python over the elements, rows or steps of tensors."""

    title = "A Python loop over tensors"
    advice = (
        "Do all of it in one operator: index, broadcast or batch over the dimension that the loop"
        " walks; for a recurrence use nn.GRU or nn.LSTM; a short loop torch.compile unrolls."
    )
    theory = (
        "Every turn pays Python and the launch of its operators, microseconds each, for little"
        " arithmetic. One operator over the whole dimension pays once and uses all cores."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Lines inside a loop on which one operator runs often within one call."""
        groups: dict[tuple[str, int, int], list[Node]] = defaultdict(list)
        loops: dict[tuple[str, int, int], Loop] = {}
        for (file, line), nodes in _repeating(seen).items():
            for loop in seen.sources.loops_around(file, line)[-1:]:
                if not _over_modules(loop) and line != _header(loop, line):
                    key = (file, loop.lineno, loop.end_lineno or loop.lineno)
                    groups[key] += nodes
                    loops[key] = loop
        for key, nodes in groups.items():
            file, first, last = key
            turns = _most_turns(nodes)
            sizes = sorted(each.elements for each in nodes)
            yield Found(
                file, set(range(first, last + 1)),
                f"{counted(turns, 'turn')} a call, {counted(calls_of(nodes), 'operator')} a run,"
                f" each on about {counted(sizes[len(sizes) // 2], 'element')}.",
                nodes=nodes, calls=calls_of(nodes), modules=seen.modules(nodes), charge="lines",
                evidence=(Evidence("turns in one call", float(turns), "turns"),),
            )  # fmt: skip


def _repeating(seen: Seen) -> dict[tuple[str, int], list[Node]]:
    by_line: dict[tuple[str, int], list[Node]] = defaultdict(list)
    for each in seen.nodes():
        site = seen.line_of(each)
        if site is not None and each.elements <= _SMALL_ELEMENTS:
            by_line[(site.file, site.line)].append(each)
    return {key: nodes for key, nodes in by_line.items() if _most_turns(nodes) >= _MANY}


def _most_turns(nodes: list[Node]) -> int:
    # Of one operator in one call of the function: those of a long expression are not turns.
    counts = Counter((each.activation, each.op, each.part) for each in nodes)
    return max(counts.values(), default=0)


def _header(loop: Loop, line: int) -> int:
    """The line on which a loop says what it walks over; a comprehension may be all one line."""
    is_parted = isinstance(loop, ast.For | ast.While) and loop.body[0].lineno > loop.lineno
    return loop.lineno if is_parted else line - 1


def _over_modules(loop: Loop) -> bool:
    """Whether what the loop names is called in it: `for block in blocks: x = block(x)`."""
    targets: set[str] = set()
    generators = getattr(loop, "generators", None)
    for each in generators or [loop]:
        target = getattr(each, "target", None)
        if target is not None:
            targets |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
    for each in ast.walk(loop):
        if isinstance(each, ast.Call):
            called = each.func
            while isinstance(called, ast.Attribute | ast.Subscript):
                called = called.value
            if isinstance(called, ast.Name) and called.id in targets:
                is_method = isinstance(each.func, ast.Attribute)
                if not is_method or each.func.attr == "forward":  # type: ignore[attr-defined]
                    return True
            if isinstance(each.func, ast.Subscript):  # self.layers[i](x)
                return True
    return False
