"""What this machine is: processor, memory, accelerators, library versions; no torch."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import psutil

from engine.records import Gpu, Machine, content_id, to_plain

_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile",
    "amx_bf16", "amx_int8", "amx_fp16", "f16c", "fma", "neon", "sve", "bf16", "i8mm",
)  # fmt: skip
# The kernel's names on ARM, and sysctl's on macOS, for what we call by one word.
_SYNONYMS = {"asimd": "neon", "feat_bf16": "bf16", "feat_i8mm": "i8mm", "avx2_0": "avx2"}
_LIBRARIES = (
    "torch", "transformers", "numpy", "pandas", "safetensors", "tokenizers", "accelerate", "onnx",
    "onnxscript", "onnxruntime", "openvino", "nncf", "torch-tb-profiler", "model-workbench",
)  # fmt: skip
_UNLIMITED = 1 << 60  # what control groups of version 1 say where there is no limit


@functools.cache
def this_machine() -> Machine:
    """The machine as this process may use it.

    Cores are physical ones, after affinity and control groups; memory is what the control group
    allows. The id stands for hardware and system: the same after a restart or an upgrade of a
    library.
    """
    cpu, features, gpus = _cpu_name(), _features(), _gpus()
    cores, memory = usable_cores(), usable_memory_bytes()
    return Machine(
        id=content_id(
            platform.system(), platform.machine(), cpu, cores, round(memory / 2**30), features,
            to_plain(gpus),
        ),
        name=platform.node() or "this machine",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu,
        cores=cores,
        memory_bytes=memory,
        features=features,
        gpus=gpus,
        versions={"python": platform.python_version(), **_versions()},
    )  # fmt: skip


def calibration_id(machine: Machine, device: str) -> str:
    """Under which id the measured ceilings of a device are kept: those of "cuda" and "cuda:0"."""
    kind, _, index = device.partition(":")
    return f"{machine.id}-{kind if index in ('', '0') else device.replace(':', '-')}"


def cache_bytes() -> dict[str, int]:
    """Bytes of one core's L1 (data) and L2 and of the whole L3; without what is not told."""
    found: dict[str, int] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            if (folder / "type").read_text().strip() == "Instruction":
                continue
            size = (folder / "size").read_text().strip()
            units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
            amount = int(size.rstrip("KMG")) * units.get(size[-1], 1)
            found[f"L{(folder / 'level').read_text().strip()}"] = amount
    for level, name in (("L1", "hw.perflevel0.l1dcachesize"), ("L2", "hw.perflevel0.l2cachesize")):
        if told := _sysctl(name):
            found[level] = int(told)
    return found


def usable_cores(cpuset: frozenset[int] | None = None, quota: float | None = None) -> int:
    """Physical cores that this process may use, at least 1.

    Args:
        cpuset: the logical processors it may run on; by default its affinity.
        quota: processors' worth of time that it may take; by default its control group's.
    """
    logical = cpuset if cpuset is not None else _affinity()
    cores = {_core_of(each) for each in logical} if logical else set()
    count = len(cores) or psutil.cpu_count(logical=False) or os.cpu_count() or 1
    limit = quota if quota is not None else _cpu_quota()
    return max(1, min(count, math.ceil(limit))) if limit else max(1, count)


def usable_memory_bytes() -> int:
    """Memory of the machine or of this process's control group, whichever is less."""
    limits = [int(psutil.virtual_memory().total)]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        for folder in cgroup_folders("memory"):
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((folder / name.split("/")[-1]).read_text()))
    return min(limits)


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset()


def _core_of(logical: int) -> tuple[str, str]:
    folder = Path(f"/sys/devices/system/cpu/cpu{logical}/topology")
    try:
        package = (folder / "physical_package_id").read_text().strip()
        return package, (folder / "core_id").read_text().strip()
    except OSError:
        return "", str(logical)


def _cpu_quota() -> float | None:
    found = []
    for folder in cgroup_folders("cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            quota_us = int((folder / "cpu.cfs_quota_us").read_text())
            if quota_us > 0:
                found.append(quota_us / int((folder / "cpu.cfs_period_us").read_text()))
    return min(found, default=None)


def cgroup_folders(controller: str) -> list[Path]:
    """Folders that may limit this process: the root's, and its own with every parent."""
    root = Path("/sys/fs/cgroup")
    folders = [root, root / controller]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            own = (root / controller if controllers else root) / path.lstrip("/")
            folders += [own, *(each for each in own.parents if root in each.parents)]
    return folders


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _features() -> tuple[str, ...]:
    words: set[str] = set()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        words = set(found[1].lower().split()) if found else set()
    if sys.platform == "darwin":
        listed = _sysctl("machdep.cpu.leaf7_features", "machdep.cpu.features")
        words = set(listed.lower().split())
        if platform.machine() == "arm64":
            words |= {"neon"} | {
                name.lower() for name in ("FEAT_BF16", "FEAT_I8MM")
                if _sysctl(f"hw.optional.arm.{name}") == "1"
            }  # fmt: skip
    words |= {_SYNONYMS[word] for word in words & set(_SYNONYMS)}
    return tuple(name for name in _FEATURES if name in words)


def _sysctl(*names: str) -> str:
    if sys.platform != "darwin":
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            ["sysctl", "-n", *names], capture_output=True, text=True, timeout=5, check=False
        )
        return asked.stdout.strip()
    return ""


def _gpus() -> tuple[Gpu, ...]:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        memory = int(psutil.virtual_memory().total)  # shared with the processor
        return (Gpu(f"{_cpu_name()} GPU", memory, "mps"),)
    return _nvidia_gpus()


def _nvidia_gpus() -> tuple[Gpu, ...]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no device: there is no NVIDIA GPU to speak of
        return ()
    try:
        return tuple(
            _nvidia_gpu(each) for each in visible_nvidia_indices(pynvml.nvmlDeviceGetCount())
        )
    except pynvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def visible_nvidia_indices(count: int) -> tuple[int, ...]:
    """The devices that CUDA_VISIBLE_DEVICES leaves; all where it is unset or names them by id."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return tuple(range(count))
    words = [word.strip() for word in listed.split(",") if word.strip()]
    if not all(re.fullmatch(r"-?\d+", word) for word in words):
        return tuple(range(count))
    return tuple(int(word) for word in words if 0 <= int(word) < count)


def _nvidia_gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    capability = ""
    with contextlib.suppress(pynvml.NVMLError):
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        capability = f"{major}.{minor}"
    return Gpu(
        name if isinstance(name, str) else name.decode(),
        int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        capability,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
