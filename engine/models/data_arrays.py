"""Arrays of quality data: .npz and .safetensors, one array of inputs, one of labels."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.models.data_rows import (
    MAX_KEPT,
    SEED,
    USUAL_ARRAYS,
    DataFile,
    Row,
    left_out,
    roles_of,
)

MAX_ARRAY_BYTES = 2_000_000_000
Arrays = dict[str, np.ndarray[Any, Any]]


def array_rows(arrays: Arrays, chosen: Mapping[str, str], name: str) -> DataFile:
    """One row for each entry along the first axis of the inputs, with its label.

    Rows with NaN or infinity are left out.

    Raises:
        DataError: no array of inputs, no numbers, or labels of another length.
    """
    role = roles_of(arrays, chosen, name, usual=USUAL_ARRAYS)
    if "input" not in role:
        raise DataError(
            f"{name} holds the arrays {', '.join(arrays) or 'none'}, not 'inputs'.",
            hint="Name it: --data-column input=ARRAY, or save it as inputs=..., labels=...",
        )
    inputs, data = role["input"], arrays[role["input"]]
    if data.ndim == 0 or data.dtype.kind not in "fiub":
        raise DataError(f"{name}: {inputs} must be an array of numbers with the examples first.")
    labels = arrays[role["label"]] if "label" in role else None
    if labels is not None and (labels.ndim == 0 or len(labels) != len(data)):
        told = len(labels) if labels.ndim else "no row of"
        raise DataError(f"{name} has {len(data)} inputs and {told} labels.")
    fine = _are_finite(data) & (_are_finite(labels) if labels is not None else True)
    places = np.flatnonzero(fine)
    if len(data) and not len(places):
        raise DataError(f"{name}: every row of {inputs} or its label holds NaN or infinity.")
    notes = left_out({"they hold NaN or infinity": len(data) - len(places)}, len(data), name)
    if len(places) > MAX_KEPT:
        generator = np.random.default_rng(SEED)
        drawn = np.sort(generator.choice(places, MAX_KEPT, replace=False))
        notes += (
            f"{MAX_KEPT:,} of {len(places):,} rows of {name} were drawn at random (seed {SEED}).",
        )
        places = drawn
    rows = [Row(data[each], None if labels is None else labels[each]) for each in places]
    return DataFile("arrays", rows, notes)


def read_npz(file: Path, name: str) -> Arrays:
    """The arrays of an .npz; pickles are never read."""
    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(each.file_size for each in archive.infolist())
        if total > MAX_ARRAY_BYTES:
            raise DataError(f"{name} would unpack to {total} bytes, more than {MAX_ARRAY_BYTES}.")
        with np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, MemoryError) as error:
        raise DataError(f"{name} cannot be read as .npz arrays: {error}.") from error


def read_safetensors(file: Path, name: str) -> Arrays:
    """The arrays of a .safetensors file, of types that numpy has."""
    from safetensors import SafetensorError, safe_open

    size = file.stat().st_size
    if size > MAX_ARRAY_BYTES:
        raise DataError(f"{name} has {size} bytes, more than {MAX_ARRAY_BYTES}.")
    try:
        with safe_open(file, framework="numpy") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, AttributeError, OSError) as error:
        raise DataError(
            f"{name} cannot be read as .safetensors arrays: {error}.",
            hint="Save its arrays as float32 or whole numbers.",
        ) from error


def _are_finite(data: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if data.dtype.kind != "f":
        return np.ones(len(data), dtype=np.bool_)
    return np.asarray(np.isfinite(data).reshape(len(data), -1).all(axis=1))


ARRAYS: dict[str, Callable[[Path, str], Arrays]] = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}
