"""The environment that a variant's process starts in; no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.optimize.technique import technique
from engine.records import Recipe, Workload

# Settings of the shell that started us would be measured as if they belonged to the variant.
_DROPPED = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "NUMEXPR_", "DNNL_",
    "ONEDNN_", "ATEN_", "MALLOC_", "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_",
    "CUBLAS_", "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32", "COVERAGE_", "COV_", "PYTEST_",
    "PYTHONMALLOC", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHONASYNCIODEBUG",
    "PYTHONPROFILEIMPORTTIME",
)  # fmt: skip
# Where a process's pages happen to lie made copies of one small model differ by 10 % for as long as
# they lived; in huge pages most of it went. Source: Curtsinger & Berger 2013 (layout as a bias).
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "THP_MEM_ALLOC_ENABLE": "1"}
_KEPT = ("TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")


def child_environment(
    threads: int | None, *, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment variables of a variant's process.

    Args:
        threads: intra-operator threads; None leaves the libraries' own choice.
        inherited: what to start from; this process's own where it is None.
    """
    given = os.environ if inherited is None else inherited
    kept = {
        name: value
        for name, value in given.items()
        if name in _KEPT or not name.startswith(_DROPPED)
    }
    kept |= {"PYTHONUNBUFFERED": "1", "OMP_DYNAMIC": "FALSE", **_HUGE_PAGES}
    if threads is not None:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept


def threads_of(recipe: Recipe, workload: Workload) -> int | None:
    """Threads that a recipe's last `cpu_threads` step asks for, else the workload's."""
    asked = workload.threads
    for step in recipe.steps:
        if step.technique == "cpu_threads":
            asked = int(technique("cpu_threads").full_params(step.params)["threads"])
    return asked
