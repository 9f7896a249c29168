"""The figures at the top of the page."""

from __future__ import annotations

from engine.records import MemoryReport, Profile
from workbench import layout
from workbench.layout import Figure
from workbench.quantities import MISSING, bytes_text, count_text, percent_text


def of_study(profile: Profile) -> None:
    """The two peaks and the largest holder."""
    measured, predicted = profile.memory, profile.predicted_memory
    best = measured or predicted
    row = []
    if measured is not None:
        row.append(
            Figure("Peak tensor memory", bytes_text(measured.peak_tensor_bytes),
                   help="Weights, activations, cache and all else that the allocator saw, at its"
                   " highest in one run.")
        )  # fmt: skip
    if predicted is not None:
        change = None
        if measured and measured.peak_tensor_bytes:
            off = predicted.peak_tensor_bytes / measured.peak_tensor_bytes - 1
            change = f"{100 * off:+.1f} %" if abs(off) >= 0.0005 else "the same"
        row.append(
            Figure("Predicted peak", bytes_text(predicted.peak_tensor_bytes), change,
                   words="against measured" if change else None,
                   help="From the lives of all tensors on the meta device, without running.")
        )  # fmt: skip
    row.append(Figure("Weights and buffers", bytes_text(best.weights_bytes if best else None)))
    if measured is not None and measured.peak_process_bytes is not None:
        row.append(
            Figure("Peak process memory", bytes_text(measured.peak_process_bytes),
                   help="Resident memory of the job that ran it: Python and libraries included.")
        )  # fmt: skip
    row.append(
        Figure("Memory of this device", bytes_text(device_bytes(profile)),
               help="What the control group, or the accelerator, allows.")
    )  # fmt: skip
    layout.figures(row)


def of_file(report: MemoryReport) -> None:
    """The peak of each device, or what a snapshot holds."""
    row = [
        Figure(
            f"Peak on {each.device}", bytes_text(each.peak_bytes),
            help=f"{count_text(each.allocations)} allocations,"
            f" {bytes_text(each.allocated_bytes)} together.",
        )
        for each in report.timelines[:4]
    ]  # fmt: skip
    snapshot = report.snapshot
    if snapshot is not None:
        share = snapshot.allocated_bytes / snapshot.reserved_bytes if snapshot.reserved_bytes else 0
        row += [
            Figure("Reserved", bytes_text(snapshot.reserved_bytes),
                   help="What the allocator has from the driver."),
            Figure("In use", bytes_text(snapshot.allocated_bytes), percent_text(share),
                   words="of reserved"),
            Figure("Largest free block", bytes_text(snapshot.largest_free_bytes),
                   help="The largest allocation that needs no new segment."),
            Figure("Fragmentation", percent_text(snapshot.fragmentation),
                   help="The part of free memory that lies outside the largest free block."),
        ]  # fmt: skip
    layout.figures(row or [Figure("Peak", MISSING)])


def device_bytes(profile: Profile) -> int:
    """Memory of the device that the study runs on."""
    machine = profile.study.machine
    device = profile.study.workload.device
    if device.startswith(("cuda", "mps", "xpu")) and machine.gpus:
        index = int(device.partition(":")[2] or 0)
        return machine.gpus[min(index, len(machine.gpus) - 1)].memory_bytes
    return machine.memory_bytes
