"""Controls are made from declarations."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from engine import api
from engine.params import make_config


def _form() -> None:
    from dataclasses import dataclass

    import streamlit as st

    from engine.params import declared_params, param
    from workbench.forms import params_form

    @dataclass(frozen=True)
    class Config:
        ratio: float = param(0.25, "Share removed.", low=0.0, high=0.95, step=0.05)
        group: int = param(32, "Weights that share a scale.", low=1, high=65536, unit="weights")
        refit: bool = param(True, "Refit what remains.")
        mode: str = param("a", "Which way.", choices=("a", "b"))
        bits: int = param(8, "Bits.", choices=(2, 3, 4, 6, 8), unit="bits")
        threads: int | None = param(None, "Threads.", low=1, high=64)
        exclude: str = param("", "Names.")

    st.session_state["said"] = params_form(
        declared_params(Config), {"group": 64}, key="p", disabled=False
    )


def test_each_kind_of_tunable_has_its_control() -> None:
    app = AppTest.from_function(_form).run()
    assert not app.exception
    assert app.slider(key="p_ratio").value == 0.25
    assert app.number_input(key="p_group").value == 64
    assert app.number_input(key="p_group").label == "Group (weights)"
    assert app.toggle(key="p_refit").value is True
    assert app.button_group(key="p_mode").value == "a"
    assert app.selectbox(key="p_bits").value == 8
    assert app.number_input(key="p_threads").value is None
    assert app.slider(key="p_ratio").help == "Share removed."


def test_what_controls_say_comes_back_typed() -> None:
    app = AppTest.from_function(_form).run()
    app.slider(key="p_ratio").set_value(0.5)
    app.toggle(key="p_refit").set_value(False)
    app.selectbox(key="p_bits").set_value(4).run()
    assert app.session_state["said"] == {
        "ratio": 0.5, "group": 64, "refit": False, "mode": "a", "bits": 4, "threads": None,
        "exclude": "",
    }  # fmt: skip


@pytest.mark.parametrize("name", [each.name for each in api.techniques()])
def test_every_technique_has_a_form_whose_values_are_accepted(name: str) -> None:
    def form(name: str) -> None:
        import streamlit as st

        from engine import api
        from workbench.forms import params_form

        found = next(each for each in api.techniques() if each.name == name)
        st.session_state["said"] = params_form(found.params, {}, key="p")

    app = AppTest.from_function(form, args=(name,)).run()
    assert not app.exception
    from engine.optimize.technique import technique

    said: dict[str, Any] = app.session_state["said"]
    assert make_config(technique(name).Config, said, owner=name) == technique(name).Config()
