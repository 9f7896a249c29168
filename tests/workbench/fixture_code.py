"""A report of a model's code as a real run leaves it."""

from __future__ import annotations

from typing import Any

from engine.records import (
    CodeFinding,
    CodeFunction,
    CodeLine,
    CodeReport,
    Evidence,
    GraphBreaks,
    SourcePlace,
)
from engine.store import Store
from tests.workbench import fixture_store

FILE = "/home/somebody/model.py"
_LINES = (
    "    def forward(self, x):",
    "        scores = self.query(x) @ self.key(x).mT",
    "        weights = scores.softmax(-1)",
    "        print(weights.max().item())",
    "        return weights @ self.value(x)",
)
# Of a run of 612 ms: 306 ms with all that is called, 61.2 of them on the line itself.
_TIMES = (None, (306.0, 61.2, 30.6), (61.2, 61.2, 40.0), (30.6, 30.6, 3.0), (30.6, 30.6, 20.0))


def finding(**changes: Any) -> CodeFinding:
    """A wait for the device on one line, with half of it known to the technique kv_cache."""
    values: dict[str, Any] = {
        "rule": "host_sync", "title": "Python waits for the device",
        "words": ".item(): 100 times a run.", "advice": "Keep it on the device.",
        "severity": "medium", "origin": "own",
        "place": SourcePlace(FILE, 12, 14, "\n".join(_LINES[2:5]), (13,)),
        "function": "Head.forward", "modules": ("blocks.0", "blocks.1"), "calls": 100.0,
        "time_ms": 30.6, "share": 0.05,
        "evidence": (Evidence("values fetched in a run", 100.0, "calls"),), "theory": "It waits.",
    }  # fmt: skip
    return CodeFinding(**{**values, **changes})


def report(**changes: Any) -> CodeReport:
    """Two findings of one's own and one in a library."""
    lines = tuple(
        CodeLine(10 + index, text)
        if time is None
        else CodeLine(10 + index, text, 100.0, *time, 300.0, 2.0e6, ("aten::mm",))
        for index, (text, time) in enumerate(zip(_LINES, _TIMES, strict=True))
    )
    attention = finding(
        rule="attention_by_hand", title="Attention written out", severity="high", share=0.5,
        time_ms=306.0, technique="fuse_attention",
        place=SourcePlace(FILE, 10, 12, "\n".join(_LINES[:3]), (11, 12)),
    )  # fmt: skip
    library = finding(rule="copies", title="Copied for its layout", origin="library",
                      severity="low", share=None, time_ms=None)  # fmt: skip
    values: dict[str, Any] = {
        "study": fixture_store.study().id, "findings": (attention, finding(), library),
        "functions": (CodeFunction(FILE, "Head.forward", 10, 14, "own", 100.0, 320.0, 183.6, lines,
                                   ("blocks.0",)),),
        "graph_breaks": GraphBreaks("found", 3, 2, 1.5), "run_ms": 612.0, "covered_ms": 580.0,
        "has_own_code": True, "source_hash": "ab", "created": 1.0, "seconds": 0.6,
    }  # fmt: skip
    return CodeReport(**{**values, **changes})


def put(store: Store, **changes: Any) -> CodeReport:
    """Keeps it for the study of the fixture."""
    made = report(**changes)
    store.put("code", made.study, made, study=made.study)
    return made
