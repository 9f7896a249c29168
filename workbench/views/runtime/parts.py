"""The parts of a step: one colour and one sentence for each."""

from __future__ import annotations

from workbench import charts

# Kernels are what a device is for; the eye should find what is none.
COLOURS: dict[str, str] = {
    "kernel": "#6366f1",
    "communication": "#f59e0b",
    "memcpy": "#14b8a6",
    "memset": "#84cc16",
    "runtime": "#8b5cf6",
    "data loading": "#ef4444",
    "CPU operators": "#0ea5e9",
    "other": "#94a3b8",
}
WORDS: dict[str, str] = {
    "kernel": "a kernel ran on the device",
    "communication": "only collectives ran",
    "memcpy": "only copies ran",
    "memset": "only fills ran",
    "runtime": "the host was inside the driver (launches, synchronisation)",
    "data loading": "the host fetched data",
    "CPU operators": "operators ran on the host, and nothing on a device",
    "other": "Python and everything between operators",
}


def colour(name: str) -> str:
    """The fixed colour of a part."""
    found = _known(name)
    return COLOURS[found] if found else charts.BASELINE


def words(name: str) -> str:
    """What a part is."""
    found = _known(name)
    return WORDS[found] if found else name


def _known(name: str) -> str | None:
    lowered = name.lower()
    for known in COLOURS:
        if known.lower() in lowered:
            return known
    if "cpu" in lowered:
        return "CPU operators"
    return None
