"""Controls made from declarations: one for each tunable of a technique."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from engine.params import Param

# More choices than this do not stand side by side.
_SIDE_BY_SIDE = 4


def params_form(
    declared: tuple[Param, ...], values: Mapping[str, Any], *, key: str, disabled: bool = False
) -> dict[str, Any]:
    """A control for each tunable; returns what they say.

    Args:
        declared: the tunables, from `declared_params`.
        values: what the recipe says; a default stands where it says nothing.
        key: makes the controls' keys unique.
        disabled: whether they are greyed.
    """
    return {
        each.name: control(
            each, values.get(each.name, each.default), key=f"{key}_{each.name}", disabled=disabled
        )
        for each in declared
    }


def control(declared: Param, value: Any, *, key: str, disabled: bool = False) -> Any:
    """The control that fits one tunable."""
    if declared.choices:
        make: Callable[..., Any] = _choice
    elif declared.optional:
        make = _optional
    else:
        make = {bool: _toggle, int: _number, float: _number}.get(declared.kind, _text)
    return make(declared, value, key, disabled)


def label(declared: Param) -> str:
    """The name with its unit, as it stands beside the control."""
    name = declared.name.replace("_", " ").capitalize()
    return f"{name} ({declared.unit})" if declared.unit else name


def _toggle(declared: Param, value: Any, key: str, disabled: bool) -> bool:
    return st.toggle(label(declared), bool(value), key=key, help=declared.help, disabled=disabled)


def _choice(declared: Param, value: Any, key: str, disabled: bool) -> Any:
    options = list(declared.choices)
    if len(options) <= _SIDE_BY_SIDE:
        return st.segmented_control(
            label(declared), options, default=value, key=key, help=declared.help,
            disabled=disabled, required=True, format_func=_plain,
        )  # fmt: skip
    return st.selectbox(
        label(declared), options, index=options.index(value), key=key, help=declared.help,
        disabled=disabled, format_func=_plain,
    )  # fmt: skip


def _number(declared: Param, value: Any, key: str, disabled: bool) -> Any:
    kind = declared.kind
    bounds = (declared.low, declared.high)
    step = kind(declared.step) if declared.step else (1 if kind is int else None)
    # A bound that is excluded by nature (0 < ratio) is declared; the slider needs both ends.
    if None not in bounds and step is not None and (bounds[1] - bounds[0]) / step <= 200:  # type: ignore[operator]
        return st.slider(
            label(declared), kind(bounds[0]), kind(bounds[1]), kind(value), step, key=key,
            help=declared.help, disabled=disabled,
        )  # fmt: skip
    return st.number_input(
        label(declared),
        min_value=None if bounds[0] is None else kind(bounds[0]),
        max_value=None if bounds[1] is None else kind(bounds[1]),
        value=kind(value),
        step=step,
        key=key,
        help=declared.help,
        disabled=disabled,
    )


def _optional(declared: Param, value: Any, key: str, disabled: bool) -> Any:
    hint = f"{declared.help} Empty: decided for you."
    if declared.kind in (int, float):
        return st.number_input(
            label(declared),
            min_value=None if declared.low is None else declared.kind(declared.low),
            max_value=None if declared.high is None else declared.kind(declared.high),
            value=None if value is None else declared.kind(value),
            placeholder="automatic",
            step=1 if declared.kind is int else None,
            key=key,
            help=hint,
            disabled=disabled,
        )
    typed = st.text_input(
        label(declared), "" if value is None else str(value), placeholder="automatic", key=key,
        help=hint, disabled=disabled,
    )  # fmt: skip
    return typed or None


def _text(declared: Param, value: Any, key: str, disabled: bool) -> str:
    return st.text_input(
        label(declared), str(value), key=key, help=declared.help, disabled=disabled
    )


def _plain(value: Any) -> str:
    return str(value)
