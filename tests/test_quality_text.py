"""Quality in words."""

from engine.quality_text import claim_text, flips_text, more_samples_text, p_text
from engine.records import Fidelity, Quality, replace

LOST = Quality(
    "accuracy", 0.93, 360, True, 0.9, 0.95, -0.031, -0.049, -0.013, verdict="WORSE", margin=0.01
)


def test_a_claim_names_its_interval_and_its_margin() -> None:
    assert claim_text(LOST) == "WORSE: -0.031 (95 % -0.049 to -0.013), margin 0.01"
    assert claim_text(replace(LOST, verdict=None)) == ""


def test_an_open_claim_says_how_many_more_samples_would_tell() -> None:
    unclear = replace(LOST, verdict="INCONCLUSIVE", samples_needed=1607)
    # 1,607 less 360, two digits of it, rounded up.
    assert claim_text(unclear).endswith("; about 1,300 more samples would tell")
    assert more_samples_text(replace(unclear, samples_needed=361)) == (
        "about 1 more sample would tell"
    )
    assert "at the margin" in more_samples_text(replace(unclear, samples_needed=None))
    assert "one sample" in more_samples_text(replace(unclear, samples=1))
    assert more_samples_text(LOST) == ""


def test_flips_are_told_both_ways_with_their_p() -> None:
    found = Fidelity(0.1, flips_to_wrong=1200, flips_to_right=3, mcnemar_p=1e-9)
    assert flips_text(found) == "1,200 to wrong, 3 to right (McNemar p < 0.001)"
    assert flips_text(replace(found, mcnemar_p=None)) == "1,200 to wrong, 3 to right"
    assert flips_text(Fidelity(0.1)) == ""
    assert p_text(0.0312) == "p = 0.031"
