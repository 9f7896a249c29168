"""A tunable declared once: default, bounds, step, choices, unit and help.

A technique's `Config` is a frozen dataclass whose fields come from `param(...)`. From that one
declaration come the control in the app, the option on the command line, the validation and the row
in the documentation.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import RecipeError

_KEY = "param"
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Param:
    """One tunable as the app, the command line and the docs see it."""

    name: str
    default: Any
    help: str
    kind: type
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[Any, ...] = ()
    unit: str = ""
    optional: bool = False


def param(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[Any, ...] = (),
    unit: str = "",
) -> Any:
    """A dataclass field that carries its bounds, choices, unit and help."""
    declared = {
        "help": help, "low": low, "high": high, "step": step, "choices": choices, "unit": unit,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata={_KEY: declared})


def declared_params(config: type) -> tuple[Param, ...]:
    """The tunables of a Config class, in the order in which they are declared."""
    return _declared(config)


@functools.cache
def _declared(config: Any) -> tuple[Param, ...]:
    hints = typing.get_type_hints(config)
    return tuple(
        _param_of(field, hints[field.name])
        for field in dataclasses.fields(config)
        if _KEY in field.metadata
    )


def make_config(config: type, values: Mapping[str, Any], *, owner: str) -> Any:
    """A validated instance of `config`.

    Args:
        config: the Config class of a technique.
        values: names to values; text is converted to the declared type.
        owner: the technique's name, for the message.

    Raises:
        RecipeError: an unknown name, a wrong type, a value outside its bounds or choices.
    """
    known = {each.name: each for each in declared_params(config)}
    for name in values:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise RecipeError(f"{owner} has no parameter {name!r}.", hint=f"It takes: {listed}.")
    checked = {name: _checked(known[name], value, owner) for name, value in values.items()}
    return config(**checked)


def config_values(config: Any) -> dict[str, Any]:
    """The parameters of a Config instance as plain values."""
    return {each.name: getattr(config, each.name) for each in declared_params(type(config))}


def _param_of(field: dataclasses.Field[Any], hint: Any) -> Param:
    members = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = list(typing.get_args(hint))
    kinds = [each for each in members if each is not type(None)]
    declared = field.metadata[_KEY]
    return Param(
        name=field.name,
        default=field.default,
        kind=kinds[0] if isinstance(kinds[0], type) else str,
        optional=len(kinds) < len(members),
        **declared,
    )


def _checked(declared: Param, value: Any, owner: str) -> Any:
    label = f"{owner}: {declared.name}"
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        if declared.optional:
            return None
        raise RecipeError(f"{label} must be given, got nothing.")
    typed = _typed(declared, value, label)
    if declared.choices and typed not in declared.choices:
        listed = ", ".join(str(each) for each in declared.choices)
        raise RecipeError(f"{label} must be one of {listed}, got {typed}.")
    if declared.low is not None and typed < declared.low:
        raise RecipeError(f"{label} must be at least {declared.low}, got {typed}.")
    if declared.high is not None and typed > declared.high:
        raise RecipeError(f"{label} must be at most {declared.high}, got {typed}.")
    return typed


def _typed(declared: Param, value: Any, label: str) -> Any:
    wanted = declared.kind
    if wanted is bool:
        word = value if isinstance(value, bool) else _WORDS.get(str(value).lower())
        if not isinstance(word, bool):
            raise RecipeError(f"{label} must be true or false, got {value!r}.")
        return word
    if isinstance(value, bool) and wanted in (int, float):
        raise RecipeError(f"{label} must be a number, got {value!r}.")
    try:
        typed = wanted(value)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{label} must be of type {wanted.__name__}, got {value!r}.") from error
    if typed != typed or (wanted is int and float(value) != typed):  # NaN, or a fraction cut off
        raise RecipeError(f"{label} must be of type {wanted.__name__}, got {value!r}.")
    return typed
