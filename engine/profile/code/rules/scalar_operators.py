"""Arithmetic on tensors of one element."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of, counted
from engine.records import Evidence

_FEW = 8
# One element of at most 8 bytes in, as many twice, and one out.
_MAX_BYTES = 24
_NOT = ("aten::lift_fresh", "aten::_local_scalar_dense", "aten::argmax", "aten::copy_",
        "aten::fill_")  # fmt: skip


class ScalarOperators(Rule):
    """Operators whose tensors hold one number each."""

    title = "Numbers computed as tensors"
    advice = "Compute sizes, scales and counters with Python's own numbers (math.sqrt, int, float)."
    theory = (
        "An operator costs microseconds to launch whatever its size; Python's own arithmetic costs"
        " nanoseconds and leaves nothing for the device to wait for."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Operators with one element in and out."""
        nodes = [
            each for each in seen.nodes()
            if each.shape == () and each.moved_bytes <= _MAX_BYTES and each.op not in _NOT
            and each.api not in ("__repr__", "__format__", "item", "__bool__", "tolist")
        ]  # fmt: skip
        for (file, _), group in seen.by_function(nodes).items():
            if calls_of(group) < _FEW:
                continue
            yield Found(
                file, seen.lines_of(group),
                f"{counted(calls_of(group), 'call')} a run on one number.",
                nodes=group, calls=calls_of(group), modules=seen.modules(group),
                evidence=(Evidence("operators on one element", calls_of(group), "calls"),),
            )  # fmt: skip
