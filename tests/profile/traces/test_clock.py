"""When a trace was recorded."""

from __future__ import annotations

import json

import pytest

from engine.profile.traces.reporting import report
from tests.profile.models import event


@pytest.mark.parametrize(
    ("base_ns", "first_us", "started"),
    [
        # Today's stamps count from a base, older ones from the epoch, others from the boot.
        (1_790_857_026_000_000_000, 4_500_000.0, 1_790_857_030.5),
        (0, 1_619_499_959_000_000.0, 1_619_499_959.0),
        (0, 4_500_000.0, None),
    ],
)
def test_a_trace_tells_when_it_began(base_ns, first_us, started, tmp_path):
    path = tmp_path / "trace.json"
    events = [event("aten::mm", first_us, 10.0)]
    path.write_text(json.dumps({"baseTimeNanoseconds": base_ns, "traceEvents": events}))
    found = report(path).ranks[0].started
    assert found == (None if started is None else pytest.approx(started, abs=1e-3))
