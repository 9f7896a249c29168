"""What a model's own Python does: its lines with their cost, and what could be written better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.records.advice import Evidence, SourcePlace

Severity = Literal["high", "medium", "low"]
Origin = Literal["own", "library"]
BreakState = Literal["not looked for", "none", "found", "gave up"]


@dataclass(frozen=True)
class CodeLine:
    """One line of source, for one run of the workload.

    `time_ms` has everything that the line calls in it, `self_ms` leaves out lines of the same code
    that are listed themselves. `operator_ms` is the part of `self_ms` that operators took; the
    rest is Python. All are None where nothing was timed. `operators` are calls of operators.
    `backward_ms` is what the backward pass through this line's results takes, in a train step.
    """

    number: int
    text: str
    calls: float = 0.0
    time_ms: float | None = None
    self_ms: float | None = None
    operator_ms: float | None = None
    operators: float = 0.0
    moved_bytes: float = 0.0
    names: tuple[str, ...] = ()
    backward_ms: float | None = None


@dataclass(frozen=True)
class CodeFunction:
    """A function that ran, with its source; `modules` are those whose forward is, or calls, it."""

    file: str
    name: str
    first_line: int
    last_line: int
    origin: Origin
    calls: float
    time_ms: float | None
    self_ms: float | None
    lines: tuple[CodeLine, ...]
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodeFinding:
    """Something that the code does and could do cheaper.

    Attributes:
        rule: which rule found it.
        words: what was found here, in one or two sentences.
        place: file and lines; `marked` are the lines that are to blame.
        calls: how often they ran in one run.
        time_ms: what the run spends there; None where that is not known. It bounds the gain.
        share: that time over the run's.
        technique: the technique that does away with it, where there is one.
        basis: "run" where it was seen in a run, "source" where it was read only.
    """

    rule: str
    title: str
    words: str
    advice: str
    severity: Severity
    origin: Origin
    place: SourcePlace
    function: str = ""
    modules: tuple[str, ...] = ()
    calls: float = 0.0
    time_ms: float | None = None
    share: float | None = None
    evidence: tuple[Evidence, ...] = ()
    technique: str | None = None
    theory: str = ""
    basis: Literal["run", "source"] = "run"


@dataclass(frozen=True)
class GraphBreaks:
    """Whether the compiler takes the model in one graph; `words` tell why it was not seen."""

    state: BreakState = "not looked for"
    graphs: int = 0
    breaks: int = 0
    seconds: float = 0.0
    words: str = ""


@dataclass(frozen=True)
class CodeReport:
    """The analysis of one study's code; findings with the costliest first.

    Attributes:
        run_ms: one run of the workload, to which all times are scaled.
        covered_ms: of it, what lies on the lines that are listed.
        has_own_code: whether modules of the person's own files ran; else `functions` are those
            of the library that they came from.
        source_hash: of the text that was read, to tell whether it is still the same.
        notes: what could not be seen, and why.
    """

    study: str
    findings: tuple[CodeFinding, ...]
    functions: tuple[CodeFunction, ...]
    graph_breaks: GraphBreaks
    run_ms: float | None
    covered_ms: float | None
    has_own_code: bool
    source_hash: str
    created: float
    seconds: float
    notes: tuple[str, ...] = ()
