from __future__ import annotations

import subprocess
import sys

import psutil

from engine.profile import machine


def test_the_machine_is_described_without_torch():
    code = (
        "import sys; from engine.profile.machine import this_machine as m; r = m();"
        "assert r.cpu and r.cores >= 1 and r.versions['torch'], r;"
        "assert 'torch' not in sys.modules; print(r.id)"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout == second.stdout == f"{machine.this_machine().id}\n"


def test_a_quota_of_a_control_group_limits_the_cores():
    assert machine.usable_cores(frozenset(range(1000, 1008)), quota=2.5) == 3
    assert machine.usable_cores(frozenset(range(1000, 1008)), quota=64.0) == 8
    assert machine.usable_cores(frozenset({1000}), quota=0.1) == 1


def test_memory_is_at_most_the_machines():
    assert 0 < machine.usable_memory_bytes() <= psutil.virtual_memory().total


def test_hidden_gpus_are_left_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0,9")
    assert machine.visible_nvidia_indices(4) == (2, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.visible_nvidia_indices(4) == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert machine.visible_nvidia_indices(2) == (0, 1)


def test_no_driver_is_no_error(monkeypatch):
    import pynvml

    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert machine._nvidia_gpus() == ()
