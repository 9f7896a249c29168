from __future__ import annotations

import pytest

from engine.profile.traces.categories import (
    is_communication,
    is_loading,
    synchronises,
    todays,
    uses_tensor_cores,
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Operator", "cpu_op"), ("Runtime", "runtime"), ("cuda_runtime", "runtime"),
        ("cuda_driver", "runtime"), ("hip_runtime", "runtime"), ("xpu_runtime", "runtime"),
        ("mtia_runtime", "runtime"), ("privateuse1_runtime", "runtime"), ("Kernel", "kernel"),
        ("Memcpy", "gpu_memcpy"), ("Memset", "gpu_memset"), ("hpu_op", "cpu_op"),
        ("python_function", "python_function"), (None, ""), (5, "5"),
    ],
)  # fmt: skip
def test_categories_of_any_age_and_device_have_one_name(written, read):
    assert todays(written) == read


@pytest.mark.parametrize(
    ("kernel", "does"),
    [
        ("volta_fp16_s884gemm_fp16_128x128", True),
        ("ampere_bf16_s16816gemm_bf16_128x64", True),
        ("void cutlass::Kernel<cutlass_80_tensorop_f16_s16816gemm>", True),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", True),
        ("void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", True),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", True),
        ("volta_sgemm_64x64_nt", False),
        ("ampere_sgemm_128x32_tn", False),
        ("void at::native::vectorized_elementwise_kernel<4>", False),
    ],
)
def test_names_tell_tensor_cores(kernel, does):
    assert uses_tensor_cores(kernel) is does


def test_names_tell_collectives_loading_and_waiting():
    assert is_communication("ncclDevKernel_AllReduce_Sum_f32_RING_LL")
    assert is_communication("oneccl_allreduce_kernel")
    assert not is_communication("volta_sgemm_64x64_nt")
    assert is_loading("enumerate(DataPipe)#Batcher")
    assert synchronises("cudaStreamSynchronize")
    assert synchronises("hipDeviceSynchronize")
    assert not synchronises("cudaLaunchKernel")
