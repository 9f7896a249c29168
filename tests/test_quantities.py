from engine.commands.progress import bar_text, span
from engine.commands.showing import table
from engine.quantities import bytes_text, flops_text, ms_text, ratio_text
from engine.records import Interval, JobStatus


def test_numbers_carry_the_unit_that_fits() -> None:
    assert bytes_text(251_000_000) == "251 MB"
    assert bytes_text(999) == "999 B"
    assert flops_text(11_400_000_000) == "11.4 GFLOP"
    assert ms_text(0.1234) == "0.123 ms"
    assert ms_text(None) == "-"
    assert ratio_text(Interval(6.1, 5.9, 6.3)) == "6.10x (5.90 to 6.30)"


def test_columns_are_aligned() -> None:
    assert table(("a", "long"), [("xx", "1")]) == "a   long\nxx     1"


def test_the_bar_tells_stage_percent_elapsed_and_expected() -> None:
    status = JobStatus("1", "profile", "t", "running", "Tracing", 0.5, expected_seconds=70.0)
    text = bar_text(status)
    assert text.startswith("[############............]  50 %  Tracing")
    assert text.endswith("of about 1 min 10 s")


def test_spans_are_readable() -> None:
    assert (span(12.4), span(200)) == ("12 s", "3 min 20 s")
