import os

import psutil
import pytest

from engine.errors import InputError
from engine.jobs.limits import Limits, read_bytes, resident_bytes
from engine.profile.machine import usable_memory_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("300MB", 300 * 10**6), ("8 GiB", 8 * 2**30), ("1000", 1000), ("1.5g", 15 * 10**8)],
)
def test_sizes_are_read_with_their_unit(text: str, size: int) -> None:
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["lots", "-3GB", "0", "8 GiBs", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="like 8GB"):
        read_bytes(text)


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="time limit"):
        Limits.of(None, text)


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_MEMORY_LIMIT", "2GB")
    monkeypatch.setenv("WORKBENCH_TIME_LIMIT", "90")
    assert Limits.from_environment() == Limits(2 * 10**9, 90.0)


def test_without_a_word_a_job_may_take_most_of_the_machine() -> None:
    found = Limits.from_environment()
    assert found.seconds is None
    assert 0.8 * usable_memory_bytes() < found.memory_bytes < usable_memory_bytes()


def test_resident_memory_counts_shared_pages_once() -> None:
    own = psutil.Process(os.getpid())
    alone, twice = resident_bytes([own]), resident_bytes([own, own])
    assert alone <= twice < 2 * alone
