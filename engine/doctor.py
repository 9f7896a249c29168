"""What this machine has, and what is missing for which feature; no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass

from engine.profile.machine import calibration_id, this_machine
from engine.records import Machine, MachineCalibration
from engine.store import Store, free_bytes

_LOW_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Package:
    """An optional package and what it is for; `version` is None where it is absent."""

    name: str
    feature: str
    remedy: str
    version: str | None = None


@dataclass(frozen=True)
class Examination:
    """What was found; `ceilings` are what `calibrate` measured of the processor, if it did."""

    machine: Machine
    python: str
    store: str
    free_bytes: int
    compiler: str | None
    packages: tuple[Package, ...]
    problems: tuple[str, ...] = ()
    ceilings: MachineCalibration | None = None

    @property
    def missing(self) -> tuple[Package, ...]:
        """The optional packages that are absent."""
        return tuple(each for each in self.packages if each.version is None)


_OPTIONAL = (
    ("onnx", "export to ONNX", "onnx"),
    ("onnxscript", "export to ONNX", "onnx"),
    ("onnxruntime", "the runtime onnxruntime; proof and int8 of ONNX exports", "onnx"),
    ("openvino", "the runtime openvino and its export", "openvino"),
    ("nncf", "int8 in OpenVINO", "openvino"),
)


def examine(store: Store) -> Examination:
    """Looks at machine, packages, compiler and store."""
    free = free_bytes(store.root)
    problems = []
    if free < _LOW_DISK_BYTES:
        problems.append(f"Only {free / 1e9:.1f} GB are free where the store is: exports may fail.")
    if not importlib.util.find_spec("torch"):
        problems.append("torch is absent: install again with `make run`.")
    return Examination(
        this_machine(),
        sys.version.split()[0],
        str(store.root),
        free,
        compiler(),
        tuple(_package(*each) for each in _OPTIONAL),
        tuple(problems),
        store.get("calibration", calibration_id(this_machine(), "cpu"), MachineCalibration),
    )


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call; None where there is none."""
    names = (os.environ.get("CXX", ""), "g++", "c++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _package(name: str, feature: str, extra: str) -> Package:
    try:
        version: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return Package(name, feature, f"pip install 'model-workbench[{extra}]'", version)
