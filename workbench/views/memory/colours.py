"""One fixed colour and one order for the categories of memory."""

from __future__ import annotations

from collections.abc import Iterable

from engine.records import MEMORY_CATEGORIES

COLOURS = {
    "weights": "#6366f1",
    "buffers": "#a5b4fc",
    "inputs": "#94a3b8",
    "gradients": "#ef4444",
    "optimizer state": "#f59e0b",
    "KV cache": "#0ea5e9",
    "activations": "#14b8a6",
    "activation gradients": "#fb7185",
    "workspace": "#84cc16",
    "outputs": "#8b5cf6",
    "before the trace": "#64748b",
    "other": "#a8a29e",
}
MEANINGS = {
    "weights": "Parameters, tied ones once.",
    "buffers": "What modules keep beside parameters: masks, tables, running statistics.",
    "inputs": "The tensors that one run is given.",
    "gradients": "Gradients of parameters.",
    "optimizer state": "What the optimizer keeps from step to step: AdamW's two moments.",
    "KV cache": "Keys and values that a decoder keeps.",
    "activations": "What operators made: for the next one, or kept by autograd for backward.",
    "activation gradients": "What backward makes on its way to the parameters.",
    "workspace": "Temporaries inside one operator, or inside the optimizer's step.",
    "outputs": "What the run gives back.",
    "before the trace": "Held when the recording began: most often weights and optimizer state.",
    "other": "Allocated outside of every operator.",
}
STATIC = ("weights", "buffers", "inputs", "before the trace")


def in_order(names: Iterable[str]) -> list[str]:
    """Categories in the order of every chart."""
    return sorted(names, key=lambda name: MEMORY_CATEGORIES.index(name))
