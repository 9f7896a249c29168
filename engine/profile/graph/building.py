"""The graph of a study's model: exported where that works in time, else recorded."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from engine.models.probing import one_line
from engine.profile.graph.draft import Draft, with_blocks
from engine.profile.graph.exported import exported_graph
from engine.profile.graph.folding import MOST_NODES, folded
from engine.profile.graph.recorded import recorded_graph
from engine.program import Inputs, Program, to_device
from engine.records import ModelGraph, Workload

LIMIT_SECONDS = 60.0
# Beside a profile, which nobody opened for the graph alone.
QUICK_SECONDS = 15.0


class _TimeUp(BaseException):
    """Torch.export took too long; no `except Exception` inside it may swallow this."""


def model_graph(
    program: Program,
    workload: Workload,
    inputs: Inputs,
    *,
    study: str,
    limit_seconds: float = LIMIT_SECONDS,
    most_nodes: int = MOST_NODES,
) -> ModelGraph:
    """The graph of one call of the model on its workload's inputs.

    Args:
        program: whose module is called.
        workload: a generation shows the call on its prompt, anything else the forward pass.
        inputs: of one run.
        study: the study's id.
        limit_seconds: what torch.export may take before a run is recorded instead; the limit holds
            in the main thread of a process only.
        most_nodes: of a larger graph the deepest modules are folded.
    """
    began = time.perf_counter()
    draft, reason = _draft(program, inputs, limit_seconds)
    draft, hidden = folded(draft, most_nodes)
    return ModelGraph(
        study=study,
        source="recorded run" if reason else "torch.export",
        phase="prefill" if workload.kind == "generate" else "forward",
        nodes=tuple(draft.nodes),
        edges=tuple(draft.edges),
        modules=with_blocks(draft.modules, draft.nodes, draft.edges),
        reason=reason,
        folded=hidden,
        seconds=time.perf_counter() - began,
        created=time.time(),
    )


def _draft(program: Program, inputs: Inputs, limit_seconds: float) -> tuple[Draft, str]:
    try:
        with _limited(limit_seconds):
            return exported_graph(program.module, to_device(inputs, program.context.device)), ""
    except _TimeUp:
        reason = f"it took longer than {limit_seconds:g} s"
    except Exception as error:  # torch.export raises many kinds
        reason = one_line(error)
    return recorded_graph(program, inputs), reason


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread only
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
