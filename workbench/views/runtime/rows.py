"""The rows of a report as frames, in milliseconds of what the page shows."""

from __future__ import annotations

import pandas as pd

from workbench.views.runtime.subject import Subject

OUTSIDE = "outside modules"
NO_STACK = "(no call stack)"
_LIBRARIES = ("torch/", "<built-in", "<frozen")


def operators(subject: Subject) -> pd.DataFrame:
    """A row for each operator in one module, phase and with one set of input shapes."""
    found, divisor = subject.rank.operators, subject.divisor
    stacks = subject.rank.stacks
    frame = pd.DataFrame(
        {
            "Operator": [each.name for each in found],
            "Module": [each.module or OUTSIDE for each in found],
            "Phase": [each.phase for each in found],
            "Input shapes": [each.shapes for each in found],
            "dtypes": [each.dtypes for each in found],
            "Call stack": [
                stacks[each.stack] if 0 <= each.stack < len(stacks) else NO_STACK for each in found
            ],
            "Calls": [each.calls for each in found],
            "Self": [each.self_ms for each in found],
            "Total": [each.total_ms for each in found],
            "Device self": [each.device_self_ms for each in found],
            "Device total": [each.device_total_ms for each in found],
            "Tensor cores": [each.tensor_core_ms for each in found],
            "GFLOP": [None if each.flops is None else each.flops / 1e9 for each in found],
        }
    )
    numbers = ["Calls", "Self", "Total", "Device self", "Device total", "Tensor cores", "GFLOP"]
    frame[numbers] = frame[numbers].astype(float) / divisor
    return frame


def kernels(subject: Subject) -> pd.DataFrame:
    """A row for each kernel of each device."""
    found, divisor = subject.rank.kernels, subject.divisor
    tensor = {True: "yes", False: "no", None: "not told"}
    frame = pd.DataFrame(
        {
            "Kernel": [each.name for each in found],
            "Device": [each.device for each in found],
            "Calls": [each.calls / divisor for each in found],
            "Time": [each.total_ms / divisor for each in found],
            "Mean": [each.mean_us for each in found],
            "Max": [each.max_us for each in found],
            "Min": [each.min_us for each in found],
            "Blocks per SM": [each.blocks_per_sm for each in found],
            "Occupancy": [
                None if each.occupancy_percent is None else each.occupancy_percent / 100
                for each in found
            ],
            "Tensor cores": [tensor[each.uses_tensor_cores] for each in found],
            "Operators": [", ".join(each.operators) for each in found],
            "Grid": [each.grid for each in found],
            "Block": [each.block for each in found],
        }
    )
    optional = ["Blocks per SM", "Occupancy"]
    frame[optional] = frame[optional].astype(float)
    return frame


def modules(subject: Subject) -> pd.DataFrame:
    """A row for each module, and one for what no module owns."""
    rank, divisor = subject.rank, subject.divisor
    found = rank.modules
    if not found:
        return pd.DataFrame({"Module": [], "Type": [], "Self": [], "Total": [], "Device self": []})
    outside = rank.outside_modules_ms
    extra = [] if outside is None else [outside]
    frame = pd.DataFrame(
        {
            "Module": [
                *map(subject.module_name, found),
                *(OUTSIDE for _ in extra),
            ],
            "Type": [*(each.type for each in found), *("–" for _ in extra)],
            "Total": [*(each.total_ms for each in found), *extra],
            "Self": [*(each.self_ms for each in found), *extra],
            "Device total": [*(each.device_total_ms for each in found), *(0.0 for _ in extra)],
            "Device self": [*(each.device_self_ms for each in found), *(0.0 for _ in extra)],
        }
    )
    times = ["Total", "Self", "Device total", "Device self"]
    frame[times] = frame[times].astype(float) / divisor
    return frame


def innermost(stack: str) -> str:
    """The line of a call stack that tells most: the deepest outside of torch itself."""
    lines = stack_lines(stack)
    own = [each for each in lines if not _is_library(each)]
    return (own or lines or [NO_STACK])[-1]


def stack_lines(stack: str) -> list[str]:
    """The frames of a call stack, the outermost first."""
    separator = "\n" if "\n" in stack else ";"
    lines = [_short(each.strip()) for each in stack.split(separator) if each.strip()]
    # torch.profiler writes the innermost frame first.
    if lines and "<module>" in lines[-1]:
        lines.reverse()
    return lines


def _short(frame: str) -> str:
    for folder in ("site-packages/", "dist-packages/"):
        frame = frame.rpartition(folder)[2]
    return frame


def _is_library(frame: str) -> bool:
    return frame.startswith(_LIBRARIES)
