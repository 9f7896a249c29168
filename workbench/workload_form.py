"""Controls for the workload; empty ones leave the model's default."""

from __future__ import annotations

from typing import Any, get_args

import streamlit as st

from engine.records import Machine, WorkloadKind, WorkloadRequest

_SIZES: tuple[tuple[str, str, str], ...] = (
    ("batch", "Batch", "Examples in one run."),
    ("prompt_tokens", "Prompt tokens", "For generate: tokens given."),
    ("new_tokens", "New tokens", "For generate: tokens made."),
    ("sequence_length", "Sequence length", "Tokens, for forward and train_step of text models."),
    ("image_size", "Image size (px)", "For vision models."),
    (
        "padding_percent",
        "Padding (%)",
        "Of a batch's tokens, behind rows that are shorter; text models without generation.",
    ),
    ("threads", "Threads", "Intra-operator threads; recorded with every measurement."),
)


def workload(machine: Machine) -> WorkloadRequest:
    """The controls of a workload."""
    left, right = st.columns([3, 2])
    kinds = list(get_args(WorkloadKind))
    kind = left.segmented_control(
        "Kind", kinds, key="workload_kind",
        help="What is run and timed. None chosen: the model's own.",
    )  # fmt: skip
    devices = ["cpu", *(f"cuda:{index}" for index in range(len(machine.gpus)))]
    device = right.segmented_control(
        "Device", devices, key="workload_device", disabled=len(devices) == 1,
        help="This machine has no GPU that torch can use: it is the CPU."
        if len(devices) == 1 else "Where it runs.",
    )  # fmt: skip
    sizes: dict[str, Any] = {}
    most = {"threads": machine.cores, "padding_percent": 90}
    columns = [*st.columns(4), *st.columns(4)]
    for column, (name, label, hint) in zip(columns, _SIZES, strict=False):
        sizes[name] = column.number_input(
            label, min_value=1, max_value=most.get(name), value=None, step=1,
            placeholder="default", key=f"workload_{name}", help=hint,
        )  # fmt: skip
    return WorkloadRequest(kind=kind, device=device, **sizes)
