from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.profile.traces.nesting import inherited, nearest, parents, union_length


def arrays(*spans, thread=None):
    starts, ends = np.array([s for s, _ in spans]), np.array([e for _, e in spans])
    return starts, ends, np.zeros(len(spans), int) if thread is None else np.array(thread)


def test_an_event_is_called_by_the_shortest_one_around_it():
    parent, levels = parents(*arrays((0, 100), (10, 50), (20, 30), (60, 70)))
    assert parent.tolist() == [-1, 0, 1, 0]
    assert [each.tolist() for each in levels] == [[0], [1, 3], [2]]


def test_threads_do_not_call_one_another():
    parent, _ = parents(*arrays((0, 100), (10, 20), thread=[0, 1]))
    assert parent.tolist() == [-1, -1]


def test_an_event_that_begins_when_another_ends_is_not_inside_it():
    parent, _ = parents(*arrays((0, 10), (10, 20), (10, 10)))
    assert parent.tolist() == [-1, -1, 1]


def test_overlapping_events_are_still_given_the_caller_that_is_open():
    parent, _ = parents(*arrays((0, 10), (5, 15), (12, 13)))
    assert parent[2] == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=30))
def test_nesting_equals_that_of_a_stack(drawn):
    spans = sorted(((s, s + d) for s, d in drawn), key=lambda each: (each[0], -each[1]))
    parent, levels = parents(*arrays(*spans))
    stack = []
    for row, (start, _) in enumerate(spans):
        while stack and spans[stack[-1]][1] <= start:
            stack.pop()
        if all(spans[inner][1] <= spans[outer][1] for outer, inner in pairwise(stack)):
            assert parent[row] == (stack[-1] if stack else -1)
        stack.append(row)
    assert sorted(np.concatenate(levels).tolist()) == list(range(len(spans)))


def test_time_that_lies_in_several_intervals_counts_once():
    assert union_length(np.array([0, 5, 20]), np.array([10, 12, 25])) == 17
    assert union_length(np.array([], int), np.array([], int)) == 0


def test_a_row_inherits_from_the_nearest_caller_that_has_a_value():
    parent, levels = parents(*arrays((0, 100), (10, 50), (20, 30)))
    assert inherited(np.array([7, -1, -1]), parent, levels).tolist() == [7, 7, 7]
    assert nearest(np.array([True, False, True]), parent, levels).tolist() == [-1, 0, 0]


def test_a_million_events_take_seconds():
    import time

    count = 250_000
    starts = np.repeat(np.arange(count) * 10, 4) + np.tile([0, 1, 2, 3], count)
    ends = np.repeat(np.arange(count) * 10, 4) + np.tile([9, 8, 7, 6], count)
    began = time.process_time()
    parent, _ = parents(starts, ends, np.zeros(4 * count, int))
    assert time.process_time() - began < 10  # 0.3 on a free machine
    assert parent[:8].tolist() == [-1, 0, 1, 2, -1, 4, 5, 6]
    assert pytest.approx(parent[-1]) == 4 * count - 2
