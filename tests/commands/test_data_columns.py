"""Which column of the data is what, on the command line and in what it writes."""

import pytest

from engine import api
from engine.commands.arguments import parser, study_request
from engine.errors import InputError


def test_columns_are_given_by_role() -> None:
    given = parser().parse_args(
        ["profile", "net", "--data", "a.csv", "--data-column", "text=the body", "--data-column",
         "label=stars"]
    )  # fmt: skip
    assert study_request(given).quality.columns == {"text": "the body", "label": "stars"}


@pytest.mark.parametrize("written", ["body", "title=body", "text="])
def test_what_is_no_role_and_column_is_refused(written: str) -> None:
    given = parser().parse_args(["profile", "net", "--data-column", written])
    with pytest.raises(InputError, match="written role=column") as refused:
        study_request(given)
    assert "text, second, label, group, input" in refused.value.hint


def test_columns_are_part_of_a_request() -> None:
    asked = api.request("net", data="a.csv", data_columns={"text": "body"})
    assert asked.quality.columns == {"text": "body"}
    assert api.request("net").quality.columns == {}
