"""The store loses nothing that it acknowledged, whoever else uses it and whatever dies."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine import store as store_module
from engine.errors import InputError, StorageFull, WorkbenchError
from engine.records import Machine, Recipe, Step
from engine.store import Store


def test_a_record_comes_back_as_it_was_put(tmp_path: Path) -> None:
    recipe = Recipe((Step("prune", {"ratio": 0.25}),), "small")
    Store(tmp_path).put("recipe", "a", recipe)
    assert Store(tmp_path).get("recipe", "a", Recipe) == recipe


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert Store(tmp_path).get("recipe", "a", Recipe) is None


def test_a_record_of_an_older_shape_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("recipe", "a", {"quite": "different"})
    store.put("machine", "m", Recipe())
    assert store.get("machine", "m", Machine) is None
    assert store.list("machine", Machine) == ()


def test_lists_are_newest_first_and_of_one_study(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, study in (("a", "s1"), ("b", "s2"), ("c", "s1")):
        store.put("recipe", name, Recipe(name=name), study=study)
    assert [each.name for each in store.list("recipe", Recipe)] == ["c", "b", "a"]
    assert [each.name for each in store.list("recipe", Recipe, study="s1")] == ["c", "a"]


def test_a_removed_record_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("recipe", "a", Recipe())
    store.remove("recipe", "a")
    assert store.get("recipe", "a", Recipe) is None


def test_trust_is_remembered_by_content_only(tmp_path: Path) -> None:
    Store(tmp_path).trust("abc", "model.py")
    assert Store(tmp_path).is_trusted("abc")
    assert not Store(tmp_path).is_trusted("abd")
    Store(tmp_path).distrust("abc")
    assert not Store(tmp_path).is_trusted("abc")


def test_expected_time_is_the_median_of_the_last_five(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.expected_seconds("x") is None
    for seconds in (1000.0, 1.0, 2.0, 90.0, 4.0, 3.0):
        store.add_duration("x", seconds)
    assert store.expected_seconds("x") == 3.0  # of 1, 2, 3, 4, 90
    assert store.expected_seconds("y") is None


def test_equal_content_is_kept_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"same")
    hashes = {store.add_file(tmp_path / "one"), store.add_file(tmp_path / "two")}
    assert len(hashes) == 1
    assert store.file(hashes.pop()).read_bytes() == b"same"
    assert len([each for each in store.files_folder.rglob("*") if each.is_file()]) == 1


def test_two_threads_and_two_stores_on_one_folder_lose_nothing(tmp_path: Path) -> None:
    def write(name: str) -> None:
        own = Store(tmp_path)
        for index in range(25):
            own.put("thing", f"{name}{index}", Recipe(name=name))

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(Store(tmp_path).list("thing", Recipe)) == 50


def test_many_that_open_a_new_store_at_once_all_can(tmp_path: Path) -> None:
    code = "import sys; from engine.store import Store; Store(sys.argv[1]).trust(sys.argv[2], '')"
    opening = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new"), str(index)])
        for index in range(4)
    ]
    assert [each.wait() for each in opening] == [0, 0, 0, 0]
    assert all(Store(tmp_path / "new").is_trusted(str(index)) for index in range(4))


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    random_ = random.Random(0)
    notes = [tmp_path / f"{round_}-{name}" for round_ in range(6) for name in "ab"]
    code = (
        "import sys; from engine.store import Store; from tests.fault_verbs import put_forever\n"
        "class Job: store = Store(sys.argv[1])\n"
        "put_forever({'acknowledged': sys.argv[2], 'writer': sys.argv[3]}, Job)"
    )
    for pair in zip(notes[::2], notes[1::2], strict=True):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path / "s"), str(note), note.name]
            )
            for note in pair
        ]
        deadline = time.monotonic() + 30
        while not all(note.exists() for note in pair) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random_.uniform(0, 0.1))
        for each in writers:
            each.send_signal(signal.SIGKILL)
            each.wait()
    store = Store(tmp_path / "s")
    acknowledged = [line for note in notes for line in note.read_text().splitlines()]
    assert len(acknowledged) > 20
    missing = [each for each in acknowledged if store.get("thing", each, Recipe) is None]
    assert missing == []
    with sqlite3.connect(tmp_path / "s" / "store.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_disk_is_refused_and_keeps_what_was_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("recipe", "a", Recipe(name="old"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = Recipe(name="x" * 400_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(StorageFull, match="full"):
            store.put("recipe", "a", large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.get("recipe", "a", Recipe) == Recipe(name="old")


def test_a_file_that_finds_no_room_leaves_no_leftover(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "big").write_bytes(b"x" * 200_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageFull):
            store.add_file(tmp_path / "big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "store" / "parts").iterdir()) == []


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path)
    with sqlite3.connect(tmp_path / "store.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(WorkbenchError, match="newer version"):
        Store(tmp_path)


def test_a_broken_database_is_told_in_one_line(tmp_path: Path) -> None:
    Store(tmp_path)
    for each in tmp_path.glob("store.sqlite3*"):
        each.write_bytes(b"this is no database, not at all" * 100)
    with pytest.raises(WorkbenchError, match="cannot be used") as caught:
        Store(tmp_path)
    assert "\n" not in caught.value.message


def test_a_store_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used as the store"):
        Store(tmp_path / "file" / "below")


def test_the_sweep_removes_old_leftovers_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new = (tmp_path / "parts" / name for name in ("1-old.part", "1-new.part"))
    for each in (old, new):
        each.write_bytes(b"")
    os.utime(old, (0, 0))
    store.sweep()
    assert (old.exists(), new.exists()) == (False, True)


def test_the_home_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", "/somewhere/else")
    assert store_module.default_root() == Path("/somewhere/else")
