"""The front of latency and quality."""

from hypothesis import given
from hypothesis import strategies as st

from engine.measure.pareto import pareto_front


def test_only_points_that_nobody_beats_are_on_the_front() -> None:
    points = [(10.0, 0.90), (5.0, 0.90), (2.0, 0.80), (3.0, 0.70), (20.0, 0.95)]
    # (10, .90) is beaten by (5, .90), (3, .70) by (2, .80).
    assert pareto_front(points) == [2, 1, 4]


def test_perplexity_turns_the_axis_over() -> None:
    assert pareto_front([(1.0, 30.0), (2.0, 20.0), (3.0, 25.0)], higher_is_better=False) == [0, 1]


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=12))
def test_every_point_off_the_front_is_beaten_by_one_on_it(
    points: list[tuple[float, float]],
) -> None:
    front = pareto_front(points)
    assert front
    for index, (latency, quality) in enumerate(points):
        beaten = any(points[f][0] <= latency and points[f][1] >= quality for f in front)
        assert beaten or index in front
