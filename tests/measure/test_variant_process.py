"""A process of its own: its environment, its end and its failures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.measure.environment import child_environment
from engine.measure.variant_process import VariantFailed
from tests.measure.conftest import Start, load


def is_gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_load_tells_sizes_threads_and_times_apart(start: Start) -> None:
    answer = load(start("a"))
    # 4 layers of 64*64 weights and 64 biases, a head of 64*3 + 3; four bytes each.
    assert answer["size_bytes"] == 4 * (4 * (64 * 64 + 64) + 64 * 3 + 3)
    assert answer["threads"] == 1
    assert answer["load_seconds"] == 0.25
    assert answer["build_seconds"] == 0.0


def test_a_failed_build_crosses_with_kind_message_and_hint(start: Start) -> None:
    with pytest.raises(VariantFailed) as caught:
        load(start("no", "refused"))
    record = caught.value.record
    assert (record.kind, record.hint) == ("StepRefused", "Remove the step.")
    assert record.message == "dynamic_int8: no Linear here."


@pytest.mark.parametrize(("name", "kind"), [("SIGKILL", "OutOfMemory"), ("SIGABRT", "JobCrashed")])
def test_a_killed_child_is_told_from_a_crash(start: Start, name: str, kind: str) -> None:
    with pytest.raises(VariantFailed) as caught:
        load(start("dies", "crashing", signal=name))
    assert caught.value.record.kind == kind


@pytest.mark.parametrize("value", ["nan", "inf", "7"])
def test_nan_inf_and_constant_outputs_are_failures(start: Start, value: str) -> None:
    process = start("broken", "broken", value=value)
    load(process)
    with pytest.raises(VariantFailed) as caught:
        process.ask("check", timeout=60)
    assert caught.value.record.kind == "NumericalFailure"


def test_no_answer_in_time_ends_the_child(start: Start) -> None:
    process = start("slow", sleep_ms=60_000)
    load(process)
    with pytest.raises(VariantFailed) as caught:
        process.ask("check", timeout=0.2)
    assert caught.value.record.kind == "TimedOut"
    assert is_gone(process.pid)


def test_settings_of_the_shell_are_not_inherited() -> None:
    given = {"PATH": "/bin", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0",
             "MKL_DEBUG_CPU_TYPE": "5", "TORCHINDUCTOR_CACHE_DIR": "/c",
             "OMP_NUM_THREADS": "9"}  # fmt: skip
    found = child_environment(3, inherited=given)
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "3"
    assert found["PATH"] == "/bin"
    assert found["TORCHINDUCTOR_CACHE_DIR"] == "/c"
    assert not {"OMP_WAIT_POLICY", "KMP_BLOCKTIME", "MKL_DEBUG_CPU_TYPE"} & found.keys()
    assert "OMP_NUM_THREADS" not in child_environment(None, inherited=given)
    assert "hugetlb" in found["GLIBC_TUNABLES"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_their_conductor_however_it_ends(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from engine.measure.environment import child_environment\n"
        "from engine.measure.variant_process import Entrant, VariantProcess\n"
        "e = Entrant('a', 'x:y', {}, child_environment(1))\n"
        "p = VariantProcess(e, log=Path(sys.argv[1])); p.ask('hello', timeout=60)\n"
        "print(p.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.Process(child).status() == psutil.STATUS_STOPPED
    os.kill(parent.pid, number)
    parent.wait()
    parent.stdout.close()
    assert is_gone(child)
