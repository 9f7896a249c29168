"""The modules of a model as a table in the order of the tree, whose rows can be chosen."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records import ModuleProfile, Profile
from workbench import tables, tree
from workbench.views.structure import details, selection

_INDENT = "\u2003"
_FLOPS = ((1e6, "MFLOP"), (1e9, "GFLOP"), (1e12, "TFLOP"))
_BYTES = ((2**20, "MiB"), (2**30, "GiB"))


def show(profile: Profile) -> None:
    """The table with every column; a click on a row chooses the module on every view."""
    _table(profile, _frame(profile), height=560)
    details.show(profile)


def show_below(profile: Profile) -> None:
    """The same below a picture: around the chosen module, so that its row is in sight."""
    frame = _frame(profile)
    name = selection.chosen()
    if name and name != tree.ROOT:
        words = f"Only what is around and inside `{name}`"
        if st.toggle(words, value=True, key="modules_near"):
            frame = around(frame, name)
    _table(profile, frame, height=330)
    details.show(profile)


def around(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a module, of those that hold it, and of those that it holds."""
    kept = [
        path == tree.ROOT or f"{name}.".startswith(f"{path}.") or path.startswith(f"{name}.")
        for path in frame["Path"]
    ]
    return frame[pd.Series(kept, index=frame.index)]


def _table(profile: Profile, frame: pd.DataFrame, *, height: int) -> None:
    tables.choose(
        frame,
        key="modules",
        value="Path",
        chosen=selection.chosen(),
        on_choose=selection.choose,
        columns=_columns(profile),
        search="Search modules, types, dtypes",
        height=height,
        file=f"{profile.study.model.name}-modules.csv",
    )


def _frame(profile: Profile) -> pd.DataFrame:
    whole = profile.totals.flops or 1
    # In the order of the tree, as their author wrote them.
    modules = tree.filled_containers(profile.modules)
    known = {each.name for each in modules}
    size, _ = _byte_unit(profile)
    flops, _ = _flop_unit(profile)
    frame = pd.DataFrame(
        {
            "Module": [_INDENT * _depth(each, known) + _label(each, profile) for each in modules],
            "Type": [each.type for each in modules],
            "Parameters": [each.parameters for each in modules],
            "Weights": [each.parameter_bytes / size for each in modules],
            "FLOPs": [each.flops / flops for each in modules],
            "Share": [each.flops / whole for each in modules],
            "Moved": [each.moved_bytes / size for each in modules],
            "Activations": [each.activation_bytes / size for each in modules],
            "FLOP/B": [each.arithmetic_intensity for each in modules],
            "dtype": [each.dtype for each in modules],
            "Calls": [each.calls for each in modules],
        }
    )
    time = profile.totals.time_ms
    if time:
        frame.insert(2, "Time", [each.time_ms for each in modules])
        frame.insert(3, "Self", [each.self_time_ms for each in modules])
        frame.insert(4, "Time share", [(each.time_ms or 0.0) / time for each in modules])
    if any(each.active_parameters is not None for each in modules):
        at = frame.columns.get_loc("Parameters")
        active = [each.active_parameters for each in modules]
        frame.insert(int(at) + 1, "Active", active)  # type: ignore[arg-type]
    if any(each.elementwise_flops for each in modules):
        at = frame.columns.get_loc("Share")
        frame.insert(int(at) + 1, "Elementwise", [e.elementwise_flops / flops for e in modules])  # type: ignore[arg-type]
    frame["Path"] = [each.name or tree.ROOT for each in modules]
    return frame


def _flop_unit(profile: Profile) -> tuple[float, str]:
    """One unit for the whole column, in which the model does not take more than five digits."""
    most = profile.totals.flops
    return next((each for each in _FLOPS if most < 1e5 * each[0]), _FLOPS[-1])


def _byte_unit(profile: Profile) -> tuple[float, str]:
    most = max(profile.totals.moved_bytes, profile.totals.parameter_bytes)
    return _BYTES[0] if most < 1e5 * _BYTES[0][0] else _BYTES[1]


def _depth(module: ModuleProfile, known: set[str]) -> int:
    if tree.is_root(module):
        return 0
    parts = module.name.split(".")
    return 1 + sum(".".join(parts[:size]) in known for size in range(1, len(parts)))


def _label(module: ModuleProfile, profile: Profile) -> str:
    if tree.is_root(module):
        return profile.study.model.name
    return module.name.rpartition(".")[2]


def _columns(profile: Profile) -> tables.Columns:
    number = st.column_config.NumberColumn
    (_, size), (_, flops) = _byte_unit(profile), _flop_unit(profile)
    return {
        "Module": st.column_config.TextColumn(pinned=True, width="medium"),
        "Time": number("Time (ms)", format="%.3f", help="With everything below it, in one run."),
        "Self": number("Self (ms)", format="%.3f", help="Outside the modules that it calls."),
        "Time share": tables.share("Share of time"),
        "Parameters": number(format="localized"),
        "Active": number(
            format="localized", help="Of its parameters, what one token meets after routing."
        ),
        "Weights": number(f"Weights ({size})", format="%.3f"),
        "FLOPs": number(
            flops, format="%.3f", help="Products; elementwise arithmetic stands apart."
        ),
        "Elementwise": number(f"Elementwise ({flops})", format="%.3f"),
        "Share": tables.share("Share of FLOPs"),
        "Moved": number(f"Moved ({size})", format="%.3f"),
        "Activations": number(f"Activations ({size})", format="%.3f"),
        "FLOP/B": number(format="%.2f"),
    }
