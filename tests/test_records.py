"""Records survive JSON, and JSON that does not fit is refused."""

from __future__ import annotations

import pytest

from engine import errors
from engine.errors import InputError, WorkbenchError, by_kind
from engine.records import (
    ModelReference,
    Step,
    StudyRequest,
    WorkloadRequest,
    content_id,
    from_json,
    from_plain,
    to_json,
    to_plain,
)


def test_a_record_survives_json() -> None:
    asked = StudyRequest(ModelReference("a.py:build", {"layers": 2}), WorkloadRequest(batch=3))
    assert from_json(to_json(asked), StudyRequest) == asked
    assert from_plain(to_plain(asked), StudyRequest) == asked


@pytest.mark.parametrize("text", ["", "{", "[]", '{"technique": 3}'])
def test_json_that_does_not_fit_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(text, Step)
    assert "Step" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_content_id_ignores_the_order_of_keys_only() -> None:
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
    assert content_id({"a": 1}) != content_id({"a": 2})


def test_every_leaf_of_the_error_tree_is_found_by_its_kind() -> None:
    leaves = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, WorkbenchError)
    ]
    assert len(leaves) > 15
    for each in leaves:
        assert by_kind(each.__name__) is each
    assert by_kind("no such thing") is WorkbenchError


def test_bad_input_and_early_ends_have_their_exit_status() -> None:
    assert errors.UntrustedCode("x").exit_status == 2
    assert errors.OutOfMemory("x").exit_status == 1
