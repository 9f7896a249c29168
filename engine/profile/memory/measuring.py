"""What holds the memory while a workload runs, measured by its allocation events."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.measure.lifetime import peak_resident_bytes, reset_peak
from engine.profile.attribution import module_hooks
from engine.profile.counting import Counts, count
from engine.profile.execution import run_workload
from engine.profile.memory.events import Known, lives_of
from engine.profile.memory.kinds import kinds_after, output_tensors_of, resident_bytes
from engine.profile.memory.ledger import ledger
from engine.profile.memory.recording import recorded_history
from engine.profile.memory.timeline import timeline
from engine.profile.phases import phased
from engine.profile.traces.decoding import read_columns
from engine.profile.tracing import Marks
from engine.program import Inputs, Program, held_bytes, synchronize
from engine.records import AllocatorSnapshot, MemoryLedger, MemoryTimeline, Workload, replace

# An event with its allocations takes 500 bytes and 15 microseconds to write and to read.
_MAX_CALLS = 150_000
_ACTIVITIES = {"cuda": "CUDA", "xpu": "XPU"}


@dataclass(frozen=True)
class MeasuredMemory:
    """The ledger at the peak of one run, and its course where the run was short enough.

    `snapshot` is the allocator's own after a run on CUDA.
    """

    ledger: MemoryLedger
    timeline: MemoryTimeline | None = None
    snapshot: AllocatorSnapshot | None = None


def measure_memory(
    program: Program, workload: Workload, inputs: Inputs, *, calls: int = 0
) -> MeasuredMemory:
    """Memory of one run, resident weights and inputs included.

    On the CPU the peak is the highest running sum of the profiler's allocation events, workspaces
    inside kernels included; on an accelerator it is what its caching allocator reports.

    Args:
        program: what runs.
        workload: how.
        inputs: of one run.
        calls: of operators in the run, as counted; very many and only the peak is measured.
    """
    process = _process_peak(program, workload, inputs)
    if calls > _MAX_CALLS:
        found = MeasuredMemory(_ledger_of_peak(program, workload, inputs))
    else:
        found = _followed(program, workload, inputs)
    kept = found.ledger
    is_host = torch.device(program.context.device).type == "cpu"
    beside = process - kept.peak_tensor_bytes if is_host else process
    told = replace(kept, peak_process_bytes=process, process_bytes=max(0, beside))
    return dataclasses.replace(found, ledger=told)


def measure_peak(program: Program, workload: Workload, inputs: Inputs) -> int:
    """Peak tensor bytes of one run, resident weights and inputs included."""
    return _ledger_of_peak(program, workload, inputs).peak_tensor_bytes


def predict_memory(
    program: Program, workload: Workload, inputs: Inputs, counts: Counts | None = None
) -> MemoryLedger:
    """The same ledger without running: from the lives of all tensors on the meta device."""
    return (counts or count(program, workload, inputs)).memory


def highest_sum(sizes: Iterable[int]) -> int:
    """The highest running sum of allocations (positive) and frees (negative), at least 0."""
    peak = total = 0
    for size in sizes:
        total += size
        peak = max(peak, total)
    return peak


def _followed(program: Program, workload: Workload, inputs: Inputs) -> MeasuredMemory:
    """The run with every allocation under its operator, module and phase."""
    device = torch.device(program.context.device)
    watch = _Watch(phased(program))
    slack = None
    gc.collect()  # memory that is freed in mid-run must not have been there before
    if device.type != "cpu":
        run_workload(program, workload, inputs)  # libraries take their workspaces once
        gc.collect()
    with _no_collection(), _cuda_peak(device) as reserved:
        profiler, snapshot = watch.run(workload, inputs)
        slack = reserved()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.json"
        profiler.export_chrome_trace(str(path))
        columns = read_columns(path)
    index = -1 if device.type == "cpu" else device.index or 0
    before = resident_bytes(program, inputs)
    lives = lives_of(columns, index, known=tuple(watch.known), before=before)
    shown = timeline(lives, basis="measured", device=str(device))
    found = ledger(lives.by_category(lives.peak()), held_bytes(program.module))
    return MeasuredMemory(replace(found, slack_bytes=slack), shown, snapshot)


@dataclass
class _Watch:
    """Runs a program under the profiler and notes where its known tensors lie."""

    program: Program
    known: list[Known] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def run(
        self, workload: Workload, inputs: Inputs
    ) -> tuple[torch.profiler.profile, AllocatorSnapshot | None]:
        """One run of the workload, and on CUDA the allocator's snapshot after it."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        extra = _ACTIVITIES.get(torch.device(self.program.context.device).type)
        if extra is not None:
            activities.append(getattr(torch.profiler.ProfilerActivity, extra))
        self.marks = Marks()
        module = self.program.module
        profiler = torch.profiler.profile(activities=activities, profile_memory=True)
        with (
            module_hooks(module, self.marks.enter, self.marks.leave),
            recorded_history(self.program.context.device) as snapshot,
            profiler,
        ):
            result = run_workload(self.program, workload, inputs, phase=self._phase)
            synchronize(self.program.context.device)
        taken = snapshot()
        for each in output_tensors_of(result):
            address = each.untyped_storage().data_ptr()
            self.known.append(Known("", 0, address, "outputs"))
        return profiler, taken

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        with self.marks.phase(name):
            yield
        for category, called, tensor in kinds_after(self.program, name):
            address = tensor.untyped_storage().data_ptr()
            self.known.append(Known(name, self.calls[name], address, category, called))
        self.calls[name] += 1


def _ledger_of_peak(program: Program, workload: Workload, inputs: Inputs) -> MemoryLedger:
    """The ledger with the peak alone measured: what is known beside, the rest as activations."""
    gc.collect()
    before = resident_bytes(program, inputs)
    device = torch.device(program.context.device)
    if device.type == "cpu":
        grown, slack = _peak_on_cpu(program, workload, inputs), None
    elif device.type == "cuda":
        grown, slack = _peak_on_cuda(program, workload, inputs, device)
    else:
        predicted = predict_memory(program, workload, inputs)
        grown, slack = predicted.peak_tensor_bytes - sum(before.values()), None
    found = ledger({**before, "activations": grown}, held_bytes(program.module))
    return replace(found, slack_bytes=slack)


def _peak_on_cpu(program: Program, workload: Workload, inputs: Inputs) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        run_workload(program, workload, inputs)
    finished = profiler.profiler
    if finished is None or finished.kineto_results is None:
        raise RuntimeError("The profiler recorded nothing: another one was running.")
    # Reading the events themselves: as JSON, or as profiler.events(), they take seconds.
    events = [each for each in finished.kineto_results.events() if each.name() == "[memory]"]
    events.sort(key=lambda each: each.start_ns())
    return highest_sum(each.nbytes() for each in events)


def _peak_on_cuda(
    program: Program, workload: Workload, inputs: Inputs, device: torch.device
) -> tuple[int, int | None]:
    run_workload(program, workload, inputs)  # libraries take their workspaces once
    gc.collect()
    before = torch.cuda.memory_allocated(device)
    with _cuda_peak(device) as reserved:
        run_workload(program, workload, inputs)
        slack = reserved()
    return max(0, torch.cuda.max_memory_allocated(device) - before), slack


@contextlib.contextmanager
def _cuda_peak(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Gives what the allocator reserved beyond the allocated peak, since the block began."""
    if device.type != "cuda":
        yield lambda: None
        return
    torch.cuda.reset_peak_memory_stats(device)

    def slack() -> int:
        reserved = torch.cuda.max_memory_reserved(device)
        return int(reserved - torch.cuda.max_memory_allocated(device))

    yield slack


def _process_peak(program: Program, workload: Workload, inputs: Inputs) -> int:
    """Resident memory of this process at its highest in one plain run."""
    gc.collect()
    reset_peak()
    run_workload(program, workload, inputs)
    synchronize(program.context.device)
    return peak_resident_bytes()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
