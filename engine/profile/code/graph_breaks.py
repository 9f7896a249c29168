"""Where torch.compile must cut the model's graph, and why."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.jit import ScriptModule

from engine.models.opened import OpenedModel
from engine.profile.code.origins import Origins
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found
from engine.program import call, to_device
from engine.records import Evidence, GraphBreaks

LIMIT_SECONDS = 60.0


class GraphBreak(Rule):
    """A line at which the compiler gives up its graph."""

    title = "The compiler cuts its graph here"
    advice = "Rewrite the line so that it does not depend on values, or move it out of forward."
    theory = (
        "torch.compile joins operators within one graph. At a break it returns to Python: what"
        " stands before and after cannot be fused, and CUDA graphs cannot span it."
    )


def look_for_breaks(
    opened: OpenedModel, origins: Origins, *, limit_seconds: float = LIMIT_SECONDS
) -> tuple[GraphBreaks, list[Found]]:
    """Lets the compiler's front end read one forward; nothing is compiled.

    A time limit holds on the main thread only. What the front end cannot read at all is told.
    """
    if isinstance(opened.program.module, ScriptModule):
        return GraphBreaks("gave up", words="torch.compile does not read TorchScript."), []
    began = time.monotonic()
    try:
        with _limited(limit_seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graphs, reasons = _explained(opened)
    except _TooLong:
        words = f"The front end of torch.compile was not done after {limit_seconds:.0f} s."
        return GraphBreaks("gave up", seconds=time.monotonic() - began, words=words), []
    except Exception as error:  # the front end raises whatever the model's code makes it raise
        words = f"{type(error).__name__}: {_first_line(str(error))}"
        return GraphBreaks("gave up", seconds=time.monotonic() - began, words=words), []
    seconds = time.monotonic() - began
    found = _places(reasons, origins)
    state: Any = "found" if reasons else "none"
    return GraphBreaks(state, graphs, len(reasons), seconds), found


def _explained(opened: OpenedModel) -> tuple[int, list[Any]]:
    import torch

    program = opened.program
    inputs = to_device(opened.inputs, program.context.device)
    torch._dynamo.reset()
    try:
        with torch.no_grad(), torch._dynamo.config.patch(suppress_errors=False):
            explained = torch._dynamo.explain(call)(program.module, inputs)
    finally:
        torch._dynamo.reset()
    return int(explained.graph_count), list(explained.break_reasons)


def _places(reasons: list[Any], origins: Origins) -> list[Found]:
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for each in reasons:
        stack = [
            frame for frame in each.user_stack if origins.of_file(frame.filename) != "machinery"
        ]
        own = [frame for frame in stack if origins.of_file(frame.filename) == "own"]
        for frame in (own or stack)[-1:]:
            groups[(frame.filename, int(frame.lineno or 1))].append(_words(str(each.reason)))
    return [
        Found(
            file, {line}, words[0], calls=float(len(words)), charge="nothing", at_least="medium",
            evidence=(Evidence("graph breaks at this line", float(len(words)), "breaks"),),
        )
        for (file, line), words in groups.items()
    ]  # fmt: skip


def _words(reason: str) -> str:
    """The explanation out of the report of a break, in one line."""
    if "generic_jump" in reason:
        return "Python decides by a tensor's value: an if, a while, or an and."
    told = re.search(r"Explanation:\s*(.+?)(?:\n\s*Hint:|\n\n|$)", reason, re.DOTALL)
    words = " ".join((told[1] if told else _first_line(reason)).split())
    return words if len(words) < 300 else f"{words[:297]}…"


def _first_line(text: str) -> str:
    lines = [each.strip() for each in text.strip().splitlines() if each.strip()]
    return lines[0][:300] if lines else "no reason was given"


class _TooLong(BaseException):
    """Raised past every handler of the code that is being read."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
