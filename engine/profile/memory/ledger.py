"""The ledger of a peak: what holds the memory, in the words that people ask for."""

from __future__ import annotations

from collections.abc import Mapping

from engine.records import MemoryLedger

_FIELDS = {
    "KV cache": "cache_bytes",
    "activations": "activations_bytes",
    "activation gradients": "activations_bytes",
    "gradients": "gradients_bytes",
    "optimizer state": "optimizer_bytes",
    "workspace": "workspace_bytes",
}
_HELD = ("weights", "buffers")


def ledger(peak: Mapping[str, int], by_dtype: Mapping[str, int]) -> MemoryLedger:
    """The ledger of what was alive at a peak.

    Args:
        peak: bytes by category of `MEMORY_CATEGORIES`.
        by_dtype: bytes of weights and buffers by number format.
    """
    parts = dict.fromkeys({*_FIELDS.values(), "rest_bytes"}, 0)
    for category, size in peak.items():
        if category not in _HELD:
            parts[_FIELDS.get(category, "rest_bytes")] += size
    held = sum(peak.get(each, 0) for each in _HELD)
    return MemoryLedger(
        weights_bytes=held,
        peak_tensor_bytes=held + sum(parts.values()),
        weights_by_dtype=dict(by_dtype),
        buffers_bytes=peak.get("buffers", 0),
        **parts,
    )
