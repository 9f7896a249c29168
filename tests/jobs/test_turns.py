"""Jobs that measure run one behind the other; the others do not wait."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from engine import client
from engine.jobs.folder import JobFolder
from engine.jobs.turn import Turn
from engine.store import Store
from tests.jobs.waiting import until


def times(store: Store, job: str) -> tuple[float, float]:
    folder = store.jobs_folder / job
    return float((folder / "began").read_text()), float((folder / "woke").read_text())


def test_measuring_jobs_of_two_stores_never_overlap(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    first = client.submit(store, "profile", {"seconds": 0.4}, title="first")
    second = client.submit(other, "compare", {"seconds": 0.1}, title="second")
    assert client.wait(store, first).state == "done"
    assert client.wait(other, second).state == "done"
    spans = sorted([times(store, first), times(other, second)])
    assert spans[0][1] <= spans[1][0]


def test_a_waiting_job_is_queued_and_says_after_whom(store: Store) -> None:
    first = client.submit(store, "profile", {}, title="Profile of something")
    until(lambda: client.status(store, first).state == "running")
    second = client.submit(store, "compare", {}, title="second")
    until(lambda: "Profile of something" in client.status(store, second).stage)
    assert client.status(store, second).state == "queued"
    client.cancel(store, first)
    until(lambda: client.status(store, second).state == "running")


def test_the_queue_is_first_come_first_served(store: Store) -> None:
    first = client.submit(store, "profile", {}, title="0")
    until(lambda: client.status(store, first).state == "running")
    waiting = []
    for index in range(3):
        job = client.submit(store, "profile", {"seconds": 0.01}, title=str(index))
        until(lambda job=job: (store.root / "queue" / job).exists())
        waiting.append(job)
    client.cancel(store, first)
    for each in waiting:
        client.wait(store, each)
    spans = [times(store, each) for each in waiting]
    assert spans == sorted(spans)


def test_a_queued_job_can_be_cancelled(store: Store) -> None:
    first = client.submit(store, "profile", {}, title="first")
    until(lambda: client.status(store, first).state == "running")
    second = client.submit(store, "profile", {}, title="second")
    until(lambda: client.status(store, second).stage.startswith("Waits"))
    client.cancel(store, second)
    status = client.wait(store, second)
    assert (status.state, status.started) == ("cancelled", None)
    assert client.status(store, first).state == "running"


def test_a_killed_job_gives_its_turn_back(store: Store) -> None:
    first = client.submit(store, "profile", {}, title="first")
    until(lambda: client.status(store, first).state == "running")
    JobFolder(store.jobs_folder / first).processes().supervisor.send(signal.SIGKILL)
    second = client.submit(store, "profile", {"seconds": 0.01}, title="second")
    assert client.wait(store, second).state == "done"


def test_a_job_that_does_not_measure_does_not_wait(store: Store) -> None:
    first = client.submit(store, "profile", {}, title="first")
    until(lambda: client.status(store, first).state == "running")
    assert (
        client.wait(store, client.submit(store, "echo", {"text": "x"}, title="e")).state == "done"
    )
    assert client.status(store, first).state == "running"


def test_the_lock_is_shared_by_those_who_only_must_not_disturb(tmp_path: Path) -> None:
    turn, other = Turn(tmp_path / "lock"), Turn(tmp_path / "lock")
    with other.shared() as free, Turn(tmp_path / "lock").shared() as also_free:
        assert (free, also_free) == (True, True)
        assert not turn.take("me")
    assert turn.take("me")
    with other.shared() as free:
        assert not free
    turn.give_back()
    assert other.take("other")
    other.give_back()


def test_the_operating_system_takes_the_lock_from_the_dead(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from engine.jobs.turn import Turn\n"
        "turn = Turn(Path(sys.argv[1])); turn.take('x'); print('ok', flush=True); time.sleep(60)"
    )
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "ok\n"
    assert not Turn(lock).take("me")
    holder.kill()
    holder.communicate()
    turn = Turn(lock)
    assert turn.take("me")
    turn.give_back()
