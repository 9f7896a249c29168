"""Turns, rounds and what happens when a variant dies in one."""

import time

import psutil

from engine.measure.conductor import BLOCK_MS, Conductor
from tests.measure.conftest import Start, load


def test_rounds_are_interleaved_in_random_order_with_blocks_of_at_least_5_ms(start: Start) -> None:
    processes = [start("a"), start("b", layers=8)]
    for each in processes:
        load(each)
    conductor = Conductor(processes, seed=1)
    conductor.warm()
    assert conductor.play(8) == 8
    samples = conductor.samples
    for name in ("a", "b"):
        assert sorted(samples.rounds[name]) == list(range(8))
        # Every block's runs add up to 5 ms or more: BLOCK_MS is aimed at, from the fastest run
        # seen.
        assert sum(samples.runs_ms[name]) >= 8 * BLOCK_MS / 2
        assert len(samples.runs_ms[name]) > 8


def test_only_the_one_with_the_turn_runs(start: Start) -> None:
    first, second = start("first"), start("second", sleep_ms=200)
    load(first)
    load(second)
    assert psutil.Process(first.pid).status() == psutil.STATUS_STOPPED
    assert psutil.Process(second.pid).status() == psutil.STATUS_STOPPED
    before = sum(psutil.Process(first.pid).cpu_times()[:2])
    second.ask("block", timeout=60, repeats=1, settle=False)
    assert sum(psutil.Process(first.pid).cpu_times()[:2]) == before


def test_a_variant_that_dies_in_a_round_leaves_the_others_running(start: Start) -> None:
    good, bad = start("good"), start("bad", "crashing", signal="SIGSEGV", after=20)
    load(good)
    load(bad)
    conductor = Conductor([good, bad])
    conductor.warm()
    conductor.play(8)
    assert len(conductor.samples.rounds["good"]) == 8
    failure = conductor.failures["bad"]
    assert failure.kind == "JobCrashed"
    assert "SIGSEGV" in failure.message
    assert "last words" in failure.detail


def test_no_round_starts_after_the_deadline(start: Start) -> None:
    process = start("a")
    load(process)
    conductor = Conductor([process])
    conductor.warm()
    assert conductor.play(5, until=time.monotonic() - 1) == 0
    assert conductor.samples.rounds == {}


def test_copies_take_turns_and_meet_each_of_the_others_equally_often(start: Start) -> None:
    processes = [start("a"), start("b"), start("a"), start("b")]
    for each in processes:
        load(each)
    conductor = Conductor(processes, shadow=("a again", "a"))
    conductor.warm()
    conductor.play(4)
    samples = conductor.samples
    assert samples.copies["a"] == {0: 0, 1: 1, 2: 0, 3: 1}
    assert samples.copies["a again"] == {0: 1, 1: 0, 2: 1, 3: 0}
    assert sorted(samples.processes("a", "b")) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sorted(samples.rounds["a again"]) == list(range(4))


def test_three_copies_of_two_variants_meet_in_every_pair_within_nine_rounds(start: Start) -> None:
    processes = [start(name) for name in "ab" for _ in range(3)]
    for each in processes:
        load(each)
    conductor = Conductor(processes, shadow=("a again", "a"))
    conductor.warm()
    conductor.play(9)
    assert len(set(conductor.samples.processes("a", "b"))) == 9
    assert all(ours != theirs for ours, theirs in conductor.samples.processes("a", "a again"))
