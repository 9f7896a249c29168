"""What the rules look at: the recorded run, the time of each line, and the source."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import nn

from engine.models.opened import OpenedModel
from engine.profile.code.line_times import Key, LineTimes
from engine.profile.code.origins import Origins, Site
from engine.profile.code.recording import ApiCall, ModuleCall, Node, Recording
from engine.profile.code.sources import FunctionText, Sources
from engine.records import Evidence, Profile
from engine.records.code import Origin, Severity

Seeable = Node | ApiCall | ModuleCall


@dataclass
class Found:
    """What a rule found, before its cost is looked up.

    Attributes:
        file, marked: the lines to blame.
        words: what was found here.
        nodes: the operators meant; their share of their lines' time is the cost, unless
            `time_ms` is given or `lines` are to be charged with all that they call.
        charge: "operators", "lines" or "nothing".
        at_least, at_most: bounds of its severity, which else follows from the cost.
    """

    file: str
    marked: set[int]
    words: str
    nodes: Sequence[Node] = ()
    calls: float = 0.0
    modules: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    time_ms: float | None = None
    charge: Literal["operators", "lines", "nothing"] = "operators"
    at_least: Severity = "low"
    at_most: Severity = "high"
    origin: Origin | None = None
    basis: Literal["run", "source"] = "run"
    title: str = ""
    advice: str = ""
    technique: str | None = None
    smallest_share: float = 0.0


@dataclass
class Seen:
    """One model's run, watched.

    Attributes:
        recording: operators and their lineage; empty where the run could not be recorded.
        times: nanoseconds by line, not yet scaled.
        scale: run milliseconds for a nanosecond of `times`.
        run_ms: one run of the workload.
        phases_ms: its parts.
        gradient_share: of the run, what recording of gradients costs; None where not tried.
        shown: whose code is listed.
    """

    opened: OpenedModel
    origins: Origins
    sources: Sources
    recording: Recording
    shown: Origin
    times: LineTimes | None = None
    scale: float = 0.0
    run_ms: float | None = None
    phases_ms: dict[str, float] = field(default_factory=dict)
    gradient_share: float | None = None
    profile: Profile | None = None

    def line_of(self, each: Seeable) -> Site | None:
        """The listed line that something ran on."""
        return each.own if self.shown == "own" else each.site

    def written_here(self, each: Seeable) -> bool:
        """Whether the listed code itself called the operator, not a library below it."""
        return each.site is not None and each.site == self.line_of(each)

    def nodes(self) -> list[Node]:
        """Operators that the listed code itself called and that computed something."""
        return [
            each
            for each in self.recording.nodes
            if not each.is_view and not each.is_backward and self.written_here(each)
        ]

    def line_ms(self, key: Key, *, own_time: bool = False) -> float | None:
        """What the run spends on a line."""
        if self.times is None:
            return None
        found = self.times.lines.get(key)
        if found is None:
            return 0.0
        return self.scale * (found.self_ns if own_time else found.total_ns)

    def operators_ms(self, nodes: Iterable[Node]) -> float | None:
        """The part of their lines' own time that these operators take."""
        wanted: dict[Key, float] = defaultdict(float)
        for each in nodes:
            site = self.line_of(each)
            if site is not None:
                wanted[(site.file, site.line)] += each.seconds * each.weight
        if self.times is None or not wanted:
            return None
        found = 0.0
        for key, seconds in wanted.items():
            of_line = self._seconds.get(key, 0.0)
            line_ms = self.line_ms(key, own_time=True) or 0.0
            found += line_ms * (seconds / of_line if of_line else 1.0)
        return found

    def operator_ms(self, node: Node) -> float:
        """What one call of the operator took, by the profile's trace.

        The trace has the self time of each operator of each module and phase. Operators that only
        call others (aten::linear calls aten::addmm) are no nodes: their time is shared out among
        those of their module. An operator that the trace does not know counts with the time of
        this call in the recorded run.
        """
        traced = self._traced.get((node.op, node.module, node.phase))
        if traced is None:
            return 1e3 * node.seconds
        return self._trace_scale * self._around.get((node.module, node.phase), 1.0) * traced

    def by_function(self, nodes: Iterable[Node]) -> dict[tuple[str, int], list[Node]]:
        """Operators by the function that their line stands in: file and its first line."""
        found: dict[tuple[str, int], list[Node]] = defaultdict(list)
        for each in nodes:
            site = self.line_of(each)
            if site is not None:
                found[(site.file, self.function_line(site))].append(each)
        return found

    def modules(self, nodes: Iterable[Seeable]) -> tuple[str, ...]:
        """The modules whose code ran them, in order; a Linear counts as the module around it."""
        names = (each.name if isinstance(each, ModuleCall) else each.module for each in nodes)
        return tuple(dict.fromkeys(self._speaker(each) for each in names if each))

    def _speaker(self, name: str) -> str:
        modules = self._modules
        while name in modules and self.origins.of_module(modules[name]) == "machinery":
            above = name.rpartition(".")[0]
            if not above:
                return "(model)"
            name = above
        return name

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.opened.program.module.named_modules())

    def function_line(self, site: Site) -> int:
        """The first line of the function around a line."""
        function = self.sources.function_at(site.file, site.line)
        return function.first_line if function else site.code.co_firstlineno

    def lines_of(self, nodes: Iterable[Node]) -> set[int]:
        """The numbers of their lines."""
        return {site.line for each in nodes if (site := self.line_of(each)) is not None}

    def own_files(self) -> list[str]:
        """Files of the person's own that were run or that the model was opened from."""
        files = {site.file for each in self.recording.nodes if (site := each.own) is not None}
        extra = self.opened.extra
        files |= {str(extra["code"])} if "code" in extra else set()
        return sorted(files)

    def workload_functions(self) -> list[FunctionText]:
        """Functions of own files that stand for the workload and that we do not run ourselves."""
        wanted = {"generate": ("generate", "sample", "decode"), "train_step": ("train",)}
        names = wanted.get(self.opened.workload.kind, ())
        return [
            each
            for file in self.own_files()
            for each in self.sources.functions(file)
            if each.node is not None
            and each.name.rpartition(".")[2].startswith(names or ("\0",))
            and any(isinstance(inner, ast.For | ast.While) for inner in ast.walk(each.node))
        ]

    def root_forward(self) -> Site | None:
        """The first line of the model's own forward."""
        forward = inspect.unwrap(type(self.opened.program.module).forward)
        code = getattr(forward, "__code__", None)
        return Site(code.co_filename, code.co_firstlineno, code) if code else None

    @cached_property
    def _traced(self) -> dict[tuple[str, str, str], float]:
        """Milliseconds a call."""
        rows = self.profile.operators if self.profile else ()
        spent: dict[tuple[str, str, str], tuple[float, int]] = {}
        for each in rows:
            if each.self_time_ms is not None and each.calls:
                key = (each.name, each.module, each.phase)
                time_ms, calls = spent.get(key, (0.0, 0))
                spent[key] = (time_ms + each.self_time_ms, calls + each.calls)
        return {key: time_ms / calls for key, (time_ms, calls) in spent.items()}

    @cached_property
    def _around(self) -> dict[tuple[str, str], float]:
        """For each module and phase, all operators' time over that of those that are nodes."""
        nodes = {(each.op, each.module, each.phase) for each in self.recording.nodes}
        every: dict[tuple[str, str], float] = defaultdict(float)
        known: dict[tuple[str, str], float] = defaultdict(float)
        for each in self.profile.operators if self.profile else ():
            key = (each.module, each.phase)
            every[key] += each.self_time_ms or 0.0
            if (each.name, *key) in nodes:
                known[key] += each.self_time_ms or 0.0
        return {key: every[key] / known[key] for key in known if known[key] > 0}

    @cached_property
    def _trace_scale(self) -> float:
        """From the traced run, which the profiler slows, to the run's own latency."""
        profile = self.profile
        if profile is None or profile.latency_ms is None or not profile.traced_time_ms:
            return 1.0
        return profile.latency_ms.median / profile.traced_time_ms

    @cached_property
    def _seconds(self) -> dict[Key, float]:
        """Of each line, without views: their time is shared out among what computed something."""
        found: dict[Key, float] = defaultdict(float)
        for each in self.recording.nodes:
            site = self.line_of(each)
            if site is not None and not each.is_view and not each.is_backward:
                found[(site.file, site.line)] += each.seconds * each.weight
        return found


def counted(number: float, noun: str) -> str:
    """`1,600 calls`, `1 call`."""
    return f"{number:,.0f} {noun}{'' if round(number) == 1 else 's'}"


def calls_of(nodes: Iterable[Seeable]) -> float:
    """How many calls they stand for in one run."""
    return sum(each.weight for each in nodes)
