"""What an event is, by its category of whatever age and by its name."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

DATA_LOADING = "data_loading"
# Today's name for each category of the older format, and of other devices.
_TODAY = {
    "operator": "cpu_op", "hpu_op": "cpu_op", "memcpy": "gpu_memcpy", "memset": "gpu_memset",
    "concurrent_kernel": "kernel", "mtia_ccp_events": "kernel", "usertrace": "user_annotation",
}  # fmt: skip
_LOADING = ("enumerate(DataLoader)", "enumerate(DataPipe)")
# NVIDIA's and AMD's libraries name their kernels ncclKernel_* and ncclDevKernel_*; Intel's and
# Habana's have names of their own.
_COMMUNICATION = ("nccl", "rccl", "oneccl", "hccl", "xccl")
# The operators and annotations that ask for a collective.
_ASKED = ("nccl:", "gloo:", "mpi:", "xccl:", "ucc:")
# Parts of kernel names that only kernels with tensor cores have.
# Source: torch-tb-profiler's list, from NVIDIA PyProf prof/tc.py; wgmma and the xmma and cutlass
# names of Ampere and later were added.
_TENSOR_CORES = (
    "h884", "s884", "h1688", "s1688", "hmma", "i8816", "16816", "dgrad_1x1_stride_2x2",
    "first_layer_wgrad_kernel", "conv1x1", "conv2d_c1_k1", "direct_group", "xmma_implicit_gemm",
    "xmma_sparse_conv", "xmma_warp_specialized_implicit_gemm", "xmma_gemm", "xmma_sparse_gemm",
    "c1688",
)  # fmt: skip
_TENSOR_CORES_LATER = (
    "wgmma", "tensorop", "imma", "bmma", "flash_fwd", "flash_bwd", "fmha", "gmma", "_tcgen05",
    "nvjet", "s16832", "i16832", "s161616",
)  # fmt: skip
# Calls in which the host waits for the device.
_SYNCHRONISING = ("synchronize", "eventquery")


@lru_cache(maxsize=4096)
def todays(category: Any) -> str:
    """Today's name of a category."""
    found = str(category or "").lower()
    if found.endswith(("runtime", "_driver")):
        return "runtime"
    return _TODAY.get(found, found)


def is_loading(name: str) -> bool:
    """Whether the host fetches data meanwhile."""
    return name.startswith(_LOADING)


def is_communication(kernel: str) -> bool:
    """Whether a kernel belongs to a collective."""
    return any(each in kernel.lower() for each in _COMMUNICATION)


def asks_for_communication(name: str) -> bool:
    """Whether an operator or an annotation asks for a collective."""
    return name.startswith(_ASKED)


def uses_tensor_cores(kernel: str) -> bool:
    """Whether a kernel's name tells that it uses tensor cores."""
    lower = kernel.lower()
    return any(each in kernel for each in _TENSOR_CORES) or any(
        each in lower for each in _TENSOR_CORES_LATER
    )


def synchronises(call: str) -> bool:
    """Whether the host waits for the device in this runtime call."""
    return any(each in call.lower() for each in _SYNCHRONISING)
