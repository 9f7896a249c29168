"""The source of every function that ran, with what each line cost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from engine.profile.code.line_times import Key, LineTime
from engine.profile.code.recording import Node
from engine.profile.code.seen import Seen
from engine.records import CodeFunction, CodeLine

_MAX_FUNCTIONS = 80
_MAX_LINES = 400
_NAMES = 5


@dataclass
class _Lines:
    """What was seen of one function."""

    name: str
    first: int
    last: int
    nodes: dict[int, list[Node]] = field(default_factory=lambda: defaultdict(list))


def functions(seen: Seen) -> tuple[CodeFunction, ...]:
    """Functions whose lines ran, those that take most of the time first."""
    found: dict[Key, _Lines] = {}
    for each in seen.recording.nodes:
        site = seen.line_of(each)
        if site is not None:
            _at(seen, found, site.file, site.line, site.code.co_qualname).nodes[site.line].append(
                each
            )
    timed = seen.times.lines if seen.times else {}
    for file, line in timed:
        _at(seen, found, file, line, "")
    by_start = {
        (code.co_filename, code.co_firstlineno): time
        for code, time in (seen.times.functions.items() if seen.times else ())
        if not code.co_name.startswith("<") or code.co_name == "<lambda>"
    }
    made = [_function(seen, key[0], each, by_start) for key, each in found.items()]
    # What dataclasses and named tuples generate has no source and is nobody's to change.
    written = [each for each in made if any(line.text for line in each.lines)]
    made = written or made
    return tuple(sorted(made, key=lambda each: -(each.self_ms or 0.0))[:_MAX_FUNCTIONS])


def _at(seen: Seen, found: dict[Key, _Lines], file: str, line: int, name: str) -> _Lines:
    function = seen.sources.function_at(file, line)
    first = function.first_line if function else line
    last = function.last_line if function else line
    key = (file, first)
    if key not in found:
        found[key] = _Lines(function.name if function else name or "(no source)", first, last)
    elif name and found[key].name == "(no source)":
        found[key].name = name
    return found[key]


def _function(seen: Seen, file: str, lines: _Lines, by_start: dict[Key, LineTime]) -> CodeFunction:
    every = [node for nodes in lines.nodes.values() for node in nodes]
    numbers = range(lines.first, min(lines.last, lines.first + _MAX_LINES) + 1)
    shown = tuple(_line(seen, file, number, lines.nodes.get(number, [])) for number in numbers)
    time = by_start.get((file, lines.first))
    own = [each.self_ms for each in shown if each.self_ms is not None]
    return CodeFunction(
        file=file,
        name=lines.name,
        first_line=lines.first,
        last_line=numbers[-1],
        origin="own" if seen.origins.of_file(file) == "own" else "library",
        calls=time.calls if time else 0.0,
        time_ms=time.total_ns * seen.scale if time else None,
        self_ms=sum(own) if own else None,
        lines=shown,
        modules=seen.modules(every),
    )


def _line(seen: Seen, file: str, number: int, nodes: list[Node]) -> CodeLine:
    text = seen.sources.text(file, number)
    time = seen.times.lines.get((file, number)) if seen.times else None
    real = [each for each in nodes if not each.is_view]
    if time is None and not nodes:
        return CodeLine(number, text)
    names = dict.fromkeys((each.op for each in real), 0.0)
    for each in real:
        names[each.op] += each.weight
    self_ms = time.self_ns * seen.scale if time else None
    return CodeLine(
        number=number,
        text=text,
        calls=time.calls if time else 0.0,
        time_ms=time.total_ns * seen.scale if time else None,
        self_ms=self_ms,
        operator_ms=_operators_ms(seen, [e for e in nodes if not e.is_backward], self_ms),
        backward_ms=_backward_ms(seen, [e for e in nodes if e.is_backward]),
        operators=sum(each.weight for each in nodes),
        moved_bytes=sum(each.moved_bytes * each.weight for each in real),
        names=tuple(sorted(names, key=lambda name: -names[name])[:_NAMES]),
    )


def _operators_ms(seen: Seen, nodes: list[Node], self_ms: float | None) -> float | None:
    """The time that the trace puts on these operators, at most the line's own."""
    if self_ms is None or seen.profile is None or seen.profile.latency_ms is None:
        return None
    traced = sum(each.weight * seen.operator_ms(each) for each in nodes)
    return min(self_ms, traced)


def _backward_ms(seen: Seen, nodes: list[Node]) -> float | None:
    """What the trace puts on the operators that go back through this line's results."""
    if not nodes or seen.profile is None or seen.profile.latency_ms is None:
        return None
    return sum(each.weight * seen.operator_ms(each) for each in nodes)
