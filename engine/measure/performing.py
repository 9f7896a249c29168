"""What a variant's process does when it has the turn."""

from __future__ import annotations

import gc
import importlib
import itertools
import math
import random
import time
from collections.abc import Callable
from typing import Any

import torch

from engine.measure.built import Built
from engine.measure.channel import Message
from engine.measure.lifetime import peak_resident_bytes, reset_peak, return_freed_memory
from engine.measure.soundness import check_outputs
from engine.program import Generation, held_bytes, synchronize
from engine.records import to_plain

_WARM_SECONDS = 0.2
_WARM_RUNS = 3
_WARM_LIMIT_SECONDS = 3.0
_BALLAST_BYTES, _BALLAST_PIECES = 3_000_000, 64


class Performer:
    """Answers the conductor's questions; each method is one."""

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._built: Built | None = None
        self._ballast: list[torch.Tensor] = []

    def hello(self) -> Message:
        """Nothing but the sign that torch is imported and the process waits."""
        return {}

    def load(self, builder: str, arguments: dict[str, Any], threads: int | None) -> Message:
        """Opens and builds the variant."""
        if threads is not None:
            torch.set_num_threads(threads)
        module, _, function = builder.partition(":")
        build = getattr(importlib.import_module(module), function)
        built: Built = build(arguments, self._report)
        self._built = built
        gc.collect()
        return_freed_memory()  # a training or a calibration is not part of what runs
        return {
            "load_seconds": built.load_seconds,
            "build_seconds": built.build_seconds,
            "compile_seconds": built.compile_seconds,
            "size_bytes": sum(held_bytes(built.program.module).values()),
            "stored_bytes": built.program.stored.stored_bytes if built.program.stored else None,
            "steps": to_plain(built.steps),
            "notes": list(built.program.notes),
            "threads": torch.get_num_threads(),
            "peak_load_bytes": peak_resident_bytes(),
        }

    def check(self) -> Message:
        """Runs once: the outputs must be sound, and the peak of the process is of this run.

        Raises:
            NumericalFailure: NaN, Inf or constant outputs.
        """
        reset_peak()
        spent, outputs = self._timed()
        peak = peak_resident_bytes()
        check_outputs(outputs)
        return {"first_run_seconds": spent, "peak_process_bytes": peak}

    def warm(self) -> Message:
        """Runs until it is warm; gives the milliseconds of one run."""
        spent: list[float] = []
        while len(spent) < _WARM_RUNS or sum(spent) < _WARM_SECONDS:
            spent.append(self._timed()[0])
            if sum(spent) > _WARM_LIMIT_SECONDS:
                break
        gc.collect()
        gc.freeze()  # what lives now is not looked at again: collecting between blocks is cheap
        return {"run_ms": 1e3 * min(spent)}

    def block(self, repeats: int, settle: bool) -> Message:
        """Times `repeats` runs, one after the other.

        Args:
            repeats: of the workload.
            settle: run once untimed first, since the others had the caches; for short runs.
        """
        gc.collect()
        self._move_activations()
        gc.disable()
        try:
            if settle:
                self._timed()
            return self._block(repeats)
        finally:
            gc.enable()

    def memory(self) -> Message:
        """Peak of tensor bytes in one run, weights included."""
        from engine.profile.memory.measuring import measure_peak

        built = self._ready()
        peak = measure_peak(built.program, built.workload, built.inputs)
        return {"peak_tensor_bytes": peak}

    def flops(self) -> Message:
        """FLOPs of one run of the workload, without the operators that have no formula."""
        from engine.profile.counting import count

        built = self._ready()
        program = built.program if built.counted is None else built.counted()
        return {"flops": count(program, built.workload, built.inputs).totals.flops}

    def score(
        self, folder: str, reference: str, is_baseline: bool, limit: int | None, prompts: int
    ) -> Message:
        """Writes the quality of every example into `folder`; the baseline leaves its outputs."""
        from engine.measure.scoring import score

        return score(
            self._ready(), folder, reference, is_baseline=is_baseline, limit=limit, prompts=prompts
        )

    def _move_activations(self) -> None:
        """Takes some memory, other each time, so that what a run allocates comes to lie elsewhere.

        Where activations lie stays for a process's life if nothing moves them, and made copies of
        one small network differ by 3 %; moved before each block, by 0.3 %, which is the noise.
        Source: Curtsinger & Berger 2013, Stabilizer (a new layout again and again makes its luck a
        noise that averages out).
        """
        pieces = random.randrange(1, _BALLAST_PIECES)
        # Of every size alike, since an allocator keeps free places apart by their size.
        sizes = [
            64 * math.exp(random.uniform(0, math.log(_BALLAST_BYTES / 64))) for _ in range(pieces)
        ]
        self._ballast = [torch.empty(int(size), dtype=torch.uint8) for size in sizes]

    def _block(self, repeats: int) -> Message:
        built = self._ready()
        prefill, steps = [], []
        marks = [time.perf_counter()]
        for _ in range(repeats):
            outputs = self._run()
            if isinstance(outputs, Generation):
                prefill.append(outputs.prefill_ms)
                steps.append(math.fsum(outputs.step_ms) / max(1, len(outputs.step_ms)))
            del outputs
            synchronize(built.program.context.device)
            marks.append(time.perf_counter())
        runs = [1e3 * (after - before) for before, after in itertools.pairwise(marks)]
        return {"runs_ms": runs, "prefill_ms": prefill, "step_ms": steps}

    def _timed(self) -> tuple[float, Any]:
        device = self._ready().program.context.device
        synchronize(device)
        start = time.perf_counter()
        outputs = self._run()
        synchronize(device)
        return time.perf_counter() - start, outputs

    def _run(self) -> Any:
        from engine.profile.execution import run_workload

        built = self._ready()
        return run_workload(built.program, built.workload, built.inputs, built.labels)

    def _ready(self) -> Built:
        if self._built is None:
            raise RuntimeError("Nothing is loaded yet.")
        return self._built
