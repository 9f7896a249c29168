"""A spare worker is ready before the click, is claimed once, and leaves with its owner."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import client
from engine.errors import InputError
from engine.jobs import spare
from engine.jobs.turn import Turn
from engine.records import JobStatus, Recipe, from_json
from engine.store import Store
from tests.jobs.waiting import until

Run = Callable[..., JobStatus]


def ready(store: Store) -> list[Path]:
    return list(store.spares_folder.glob("*/ready"))


def known(store: Store) -> list[spare.Spare]:
    found = []
    for each in store.spares_folder.glob("*/spare.json"):
        try:
            found.append(from_json(each.read_bytes(), spare.Spare))
        except (FileNotFoundError, InputError):
            continue
    return found


@pytest.fixture
def warm(store: Store) -> Iterator[Store]:
    client.start_spare(store)
    until(lambda: ready(store))
    yield store
    for each in known(store):
        each.supervisor.send(15)
        until(lambda each=each: not each.supervisor.is_alive())


def test_a_job_runs_in_the_spare_and_another_one_follows(warm: Store, run_job: Run) -> None:
    (before,) = known(warm)
    status = run_job("echo", text="x")
    processes = (warm.jobs_folder / status.id / "process.json").read_text()
    assert f'"pid":{before.supervisor.pid}' in processes
    until(lambda: ready(warm))
    (after,) = known(warm)
    assert after.supervisor != before.supervisor
    assert after.owner == before.owner


def test_a_spare_is_claimed_once_only(warm: Store) -> None:
    claimed = []
    barrier = threading.Barrier(8)

    def claim() -> None:
        barrier.wait()
        claimed.append(spare.claim(warm.spares_folder))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len([each for each in claimed if each]) == 1


def test_a_second_start_makes_no_second_spare(warm: Store) -> None:
    client.start_spare(warm)
    assert len(known(warm)) == 1


def test_two_jobs_at_once_both_run_though_there_is_one_spare(warm: Store) -> None:
    jobs = [client.submit(warm, "echo", {"text": name}, title=name) for name in "ab"]
    assert [client.wait(warm, each).state for each in jobs] == ["done", "done"]
    names = [
        from_json((warm.jobs_folder / each / "result.json").read_bytes(), Recipe).steps[0].technique
        for each in jobs
    ]
    assert names == ["a", "b"]


def test_a_spare_of_another_environment_is_not_taken(
    warm: Store, run_job: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run_job("echo", text="x").state == "done"
    assert len(ready(warm)) == 1


def test_a_spare_waits_until_nobody_measures(store: Store) -> None:
    turn = Turn()
    assert turn.take("a measurement")
    client.start_spare(store)
    until(lambda: known(store))
    (mine,) = known(store)
    assert not ready(store)
    turn.give_back()
    until(lambda: ready(store))
    mine.supervisor.send(15)
    until(lambda: not mine.supervisor.is_alive())


def test_a_spare_leaves_with_its_owner(store: Store) -> None:
    code = (
        "import sys; from engine import client; from engine.store import Store\n"
        "client.start_spare(Store(sys.argv[1])); print('ok', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert owner.stdout.readline() == b"ok\n"
    until(lambda: ready(store))
    (mine,) = known(store)
    owner.kill()
    owner.communicate()
    until(lambda: not mine.supervisor.is_alive())
    assert list(store.spares_folder.iterdir()) == []


def test_a_dead_spare_is_not_claimed_and_is_swept(
    warm: Store, run_job: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine,) = known(warm)
    mine.supervisor.send(9)
    until(lambda: not mine.supervisor.is_alive())
    assert run_job("echo", text="x").state == "done"
    monkeypatch.setattr(spare, "_UNDELIVERED_SECONDS", -1.0)
    warm.sweep()
    assert list(warm.spares_folder.iterdir()) == []


def test_the_spare_can_be_switched_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_SPARE", "0")
    client.start_spare(store)
    assert list(store.spares_folder.iterdir()) == []
