"""Every way in which a job can end is told apart, with a reason."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine import client
from engine.durable import write
from engine.errors import InputError
from engine.jobs.folder import JobFolder
from engine.jobs.limits import Limits
from engine.jobs.supervising import GRACE_SECONDS
from engine.records import JobStatus, Recipe, from_json
from engine.store import Store
from tests.jobs.waiting import until

Run = Callable[..., JobStatus]


def worker_of(store: Store, job: str) -> psutil.Process:
    folder = JobFolder(store.jobs_folder / job)
    until(lambda: folder.processes() and folder.processes().worker)
    return psutil.Process(folder.processes().worker.pid)


def began(store: Store, job: str) -> Path:
    return store.jobs_folder / job / "began"


def test_a_job_that_ends_well_leaves_its_record_events_and_log(store: Store, run_job: Run) -> None:
    status = run_job("echo", text="hello")
    assert status.state == "done"
    assert status.error is None
    record = from_json((store.jobs_folder / status.id / "result.json").read_bytes(), Recipe)
    assert record.steps[0].technique == "hello"
    told = [(each.kind, each.text) for each in client.events(store, status.id)]
    assert told == [
        ("state", "running"),
        ("progress", "Echoing"),
        ("state", "done"),
    ]
    assert client.events(store, status.id, after=2)[0].index == 3
    assert "said hello" in client.log(store, status.id)


def test_an_error_of_ours_crosses_with_its_kind_and_hint(run_job: Run) -> None:
    status = run_job("refuse")
    assert status.state == "failed"
    assert (status.error.kind, status.error.message, status.error.hint) == (
        "InputError", "The text must be short.", "Shorten it.",
    )  # fmt: skip


def test_a_bug_crosses_in_one_line_with_its_traceback_as_detail(run_job: Run) -> None:
    status = run_job("fail")
    assert status.state == "failed"
    assert status.error.message == "ZeroDivisionError: nothing to divide by"
    assert "fault_verbs.py" in status.error.detail


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_by_a_signal_has_crashed(run_job: Run, number: signal.Signals) -> None:
    status = run_job("die", signal=int(number))
    assert status.state == "crashed"
    assert number.name in status.error.message


def test_a_process_that_leaves_without_a_word_has_crashed(run_job: Run) -> None:
    status = run_job("leave")
    assert status.state == "crashed"
    assert "status 7" in status.error.message


def test_a_worker_killed_from_outside_has_crashed(store: Store) -> None:
    job = client.submit(store, "sleep", {}, title="sleep")
    until(began(store, job).exists)
    worker_of(store, job).kill()
    assert client.wait(store, job).state == "crashed"


def test_a_job_whose_processes_are_all_killed_is_lost(store: Store) -> None:
    job = client.submit(store, "sleep", {}, title="sleep")
    until(began(store, job).exists)
    worker = worker_of(store, job)
    JobFolder(store.jobs_folder / job).processes().supervisor.send(signal.SIGKILL)
    status = client.wait(store, job)
    assert status.state == "lost"
    assert status.error.kind == "JobLost"
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_the_sweep_marks_jobs_that_died_with_the_machine(store: Store) -> None:
    job = client.submit(store, "sleep", {}, title="sleep")
    until(began(store, job).exists)
    supervisor = JobFolder(store.jobs_folder / job).processes().supervisor
    supervisor.send(signal.SIGKILL)
    until(lambda: not supervisor.is_alive())
    assert store.sweep() == (job,)
    assert store.sweep() == ()


def test_a_reused_pid_is_not_taken_for_the_job(store: Store) -> None:
    job = client.submit(store, "sleep", {}, title="sleep")
    until(began(store, job).exists)
    folder = JobFolder(store.jobs_folder / job)
    real = folder.processes()
    other = b'{"supervisor":{"pid":%d,"started":1.0}}' % os.getpid()
    write(folder.path / "process.json", other)
    assert folder.status().state == "lost"
    real.supervisor.send(signal.SIGTERM)
    until(lambda: not real.supervisor.is_alive())


def test_a_job_over_its_memory_limit_is_ended_and_says_the_limit(store: Store) -> None:
    limited = Store(store.root, limits=Limits(300 * 10**6))
    job = client.submit(limited, "allocate", {"megabytes": 600}, title="allocate")
    status = client.wait(limited, job)
    assert status.state == "out of memory"
    assert status.error.kind == "OutOfMemory"
    assert "300 MB" in status.error.message


def test_a_job_over_its_time_limit_has_timed_out(store: Store) -> None:
    limited = Store(store.root, limits=Limits(8 * 10**9, seconds=0.5))
    status = client.wait(limited, client.submit(limited, "sleep", {}, title="sleep"))
    assert status.state == "timed out"
    assert "0.5 s" in status.error.message


def test_a_full_disk_ends_the_job_with_that_reason(run_job: Run) -> None:
    status = run_job("fill_disk")
    assert status.state == "failed"
    assert status.error.kind == "StorageFull"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_really_full_still_takes_the_reason(
    small_disk: Path, fault_verbs: None
) -> None:
    store = Store(small_disk / "home")
    status = client.wait(store, client.submit(store, "fill_really", {}, title="fill"))
    assert status.state == "failed"
    assert status.error.kind == "StorageFull"
    assert client.status(Store(store.root), status.id) == status


def test_cancel_in_mid_job_ends_it_and_says_so(store: Store) -> None:
    job = client.submit(store, "sleep", {}, title="sleep")
    until(began(store, job).exists)
    client.cancel(store, job)
    status = client.wait(store, job)
    assert status.state == "cancelled"
    assert not (store.jobs_folder / job / "woke").exists()


def test_cancel_ends_children_that_ignore_sigterm_in_a_session_of_their_own(store: Store) -> None:
    job = client.submit(store, "stubborn", {}, title="stubborn")
    note = store.jobs_folder / job / "child"
    until(lambda: note.exists() and note.read_text())
    child = psutil.Process(int(note.read_text()))
    until(lambda: "SIG_IGN" in " ".join(child.cmdline()))
    client.cancel(store, job)
    assert client.wait(store, job).state == "cancelled"
    assert not child.is_running()


def test_cancel_does_not_wait_for_processes_that_are_stopped(store: Store) -> None:
    job = client.submit(store, "stopped", {}, title="stopped")
    note = store.jobs_folder / job / "child"
    until(lambda: note.exists() and note.read_text())
    child = psutil.Process(int(note.read_text()))
    until(lambda: child.status() == psutil.STATUS_STOPPED)
    began = time.monotonic()
    client.cancel(store, job)
    assert client.wait(store, job).state == "cancelled"
    assert not child.is_running()
    assert time.monotonic() - began < GRACE_SECONDS  # nothing had to be killed


def test_a_cancel_that_comes_before_the_work_is_heeded(store: Store) -> None:
    job = client.submit(store, "sleep", {}, title="sleep")
    client.cancel(store, job)
    assert client.wait(store, job).state == "cancelled"


def test_an_ended_job_is_not_changed_by_a_late_cancel(store: Store, run_job: Run) -> None:
    status = run_job("echo", text="x")
    client.cancel(store, status.id)
    assert client.status(store, status.id).state == "done"


@pytest.mark.parametrize("name", ["", "../../etc", "0" * 11 + "-" + "0" * 8])
def test_what_is_no_job_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="No job is called"):
        client.status(store, name)
