"""The view Weights: one tensor after the other, outliers, sparsity, rank, tied and duplicated."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from engine import api
from engine.records import Profile, TensorStatistics, WeightStatistics
from workbench import jobs, layout, session, tables
from workbench.layout import Figure
from workbench.quantities import (
    MISSING,
    ago_text,
    bytes_text,
    count_text,
    percent_text,
    seconds_text,
)
from workbench.views.structure import selection, weight_charts

_KEY = "weights_tensor"


def show(profile: Profile) -> None:
    """The view Weights."""
    study = profile.study
    jobs.show_ended(("weights",))
    if jobs.show_active(("weights",), study.id):
        return
    found = session.store().get("weights", study.id, WeightStatistics)
    if found is None and not study.model.has_weights:
        layout.empty(
            ":material/grid_off:",
            "There are no weights to look at",
            "This study was made from a configuration alone: the shapes and sizes of its tensors"
            " stand under Modules. Open the model with its weights to see what they hold.",
        )
        return
    if found is None:
        layout.empty(
            ":material/grid_on:",
            "The weights have not been looked at yet",
            "Each tensor is read once: its distribution, outliers, zeros, effective rank, what"
            " rounding to int8 and int4 would change, and which tensors are tied or equal. The"
            " model is not run.",
            lambda: _button(profile, "Look at the weights", primary=True),
        )
        return
    _head(found, profile)
    if found.is_meta:
        st.info(
            "This study was made from a configuration alone: there are shapes and sizes, but no"
            " values to look at. Open the model with its weights to see their statistics.",
            icon=":material/grid_off:",
        )
    _bad_numbers(found)
    if not found.is_meta:
        weight_charts.across_layers(found.tensors)
    _tensors(found, profile)
    _groups(found)


def _head(found: WeightStatistics, profile: Profile) -> None:
    bad = sum(each.nan_count + each.inf_count for each in found.tensors)
    tied = sum(len(each.names) for each in found.groups if each.kind == "tied")
    layout.figures(
        [
            Figure("Tensors", f"{len(found.tensors):,}",
                   help=f"{count_text(found.elements)} numbers in all."),
            Figure("Held", bytes_text(found.held_bytes), help="Shared storage counts once."),
            Figure("Zeros", _zeros(found),
                   help="Exact zeros of parameters; buffers such as masks are left out."),
            Figure("Duplicated", bytes_text(found.duplicated_bytes),
                   words=f"{tied} tied" if tied else None,
                   help="Equal content in storage of its own: sharing it would save this. Tied"
                        " tensors are one storage under several names and cost nothing twice."),
            Figure("NaN or Inf", f"{bad:,}", good=None if not bad else False,
                   change="broken" if bad else None),
        ]
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"Looked at {ago_text(found.created, time.time())}, in {seconds_text(found.seconds)}."
            + "".join(f" {each}" for each in found.warnings),
            width="stretch",
        )
        _button(profile, "Look again")


def _zeros(found: WeightStatistics) -> str:
    looked = [e for e in found.tensors if e.kind == "parameter" and e.zeros is not None]
    elements = sum(each.elements for each in looked)
    if not elements:
        return MISSING
    zeros = sum(each.zeros or 0 for each in looked)
    return percent_text(zeros / elements) if zeros > 1e-4 * elements else f"{zeros:,}"


def _button(profile: Profile, label: str, *, primary: bool = False) -> None:
    study = profile.study
    if st.button(
        label, icon=":material/grid_on:", type="primary" if primary else "secondary", key="weigh"
    ) and jobs.start(
        "weights", f"Weights of {study.model.name}", request=api.request_of(study)
    ):  # fmt: skip
        st.rerun()


def _bad_numbers(found: WeightStatistics) -> None:
    bad = [each for each in found.tensors if each.nan_count or each.inf_count]
    if not bad:
        return
    first = ", ".join(
        f"`{each.name}` ({each.nan_count:,} NaN, {each.inf_count:,} Inf)" for each in bad[:5]
    )
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    st.error(
        f"{len(bad)} tensor{'s hold' if len(bad) > 1 else ' holds'} NaN or Inf: {first}{more}. What"
        " they feed is NaN as well: load the weights again, or train from an earlier checkpoint.",
        icon=":material/dangerous:",
    )


def _tensors(found: WeightStatistics, profile: Profile) -> None:
    only = selection.chosen()
    inside = [each for each in found.tensors if only and _is_inside(each, only)]
    with st.container(horizontal=True, vertical_alignment="center"):
        if inside:
            restricted = st.toggle(f"Only `{only}`", value=False, key="weights_only")
            inside = inside if restricted else []
    rows = inside or list(found.tensors)
    tables.choose(
        _frame(rows),
        key="weights",
        value="Tensor",
        chosen=st.session_state.get(_KEY),
        on_choose=lambda name: st.session_state.update({_KEY: name}),
        columns=_columns(),
        search="Search tensors, types, advice",
        height=380,
        file=f"{profile.study.model.name}-weights.csv",
    )
    chosen = next((e for e in found.tensors if e.name == st.session_state.get(_KEY)), None)
    chosen = chosen or max(rows, key=lambda each: each.max_over_std or 0.0, default=None)
    if chosen is not None:
        weight_charts.tensor(chosen)


def _is_inside(tensor: TensorStatistics, module: str) -> bool:
    return tensor.module == module or tensor.module.startswith(f"{module}.")


def _frame(rows: list[TensorStatistics]) -> pd.DataFrame:
    ranks = [each.rank for each in rows]
    rounds = [each.rounding for each in rows]
    return pd.DataFrame(
        {
            "Tensor": [each.name for each in rows],
            "Module type": [each.module_type for each in rows],
            "Shape": ["×".join(str(size) for size in each.shape) or "scalar" for each in rows],
            "dtype": [each.dtype for each in rows],
            "Size": [each.size_bytes / 2**20 for each in rows],
            "Std": [each.std for each in rows],
            "Mean": [each.mean for each in rows],
            "Minimum": [each.minimum for each in rows],
            "Maximum": [each.maximum for each in rows],
            "Largest": [each.max_over_std for each in rows],
            "Outliers": [_thousandths(each.outlier_share) for each in rows],
            "Channels": [each.channel_outlier_ratio for each in rows],
            "Zeros": [_share(each.zeros, each.elements) for each in rows],
            "Near zero": [_share(each.near_zeros, each.elements) for each in rows],
            "2:4": [each.pattern_2_4 for each in rows],
            "Rank": [each.entropy if each else None for each in ranks],
            "Full": [each.full if each else None for each in ranks],
            "Rank share": [each.entropy / each.full if each and each.full else None
                           for each in ranks],
            "Int8": [each.int8_channel if each else None for each in rounds],
            "Int4": [each.int4_group if each else None for each in rounds],
            "NaN, Inf": [each.nan_count + each.inf_count for each in rows],
            "Note": [_note(each) for each in rows],
        }
    )  # fmt: skip


def _share(part: int | None, whole: int) -> float | None:
    return None if part is None or not whole else part / whole


def _thousandths(share: float | None) -> float | None:
    return None if share is None else 1000 * share


def _note(tensor: TensorStatistics) -> str:
    parts = [tensor.skipped]
    if tensor.tied_with:
        parts.append(f"tied with {', '.join(tensor.tied_with)}")
    if tensor.duplicate_of:
        parts.append(f"equals {tensor.duplicate_of}")
    if tensor.rounding and tensor.rounding.advice:
        parts.append(tensor.rounding.advice)
    return "; ".join(each for each in parts if each)


def _columns() -> tables.Columns:
    number, share = st.column_config.NumberColumn, tables.share
    return {
        "Tensor": st.column_config.TextColumn(pinned=True, width="medium"),
        "Size": tables.megabytes("Size"),
        "Std": number(format="%.4f"), "Mean": number(format="%.4f"),
        "Minimum": number(format="%.3f"), "Maximum": number(format="%.3f"),
        "Largest": number("Largest (σ)", format="%.1f", help="Distance of the most extreme value"
                          " from the mean, in standard deviations."),
        "Outliers": number("Outliers (‰)", format="%.3f", help="Values beyond 6 σ."),
        "Channels": number("Channel ratio", format="%.1f", help="Largest over median of the largest"
                           " magnitudes of the rows: high where one scale fits all rows badly."),
        "Zeros": share("Zeros"),
        "Near zero": share("Near zero", "Within a thousandth of the largest magnitude."),
        "2:4": share("2:4", "Groups of four neighbours with two zeros at least."),
        "Rank": number("Effective rank", format="%.1f", help="exp of the entropy of the singular"
                       " values: how many directions the matrix really uses."),
        "Full": number("Full rank", format="%d"),
        "Rank share": share("Of full rank"),
        "Int8": number("Int8 error", format="%.4f", help="Relative error of rounding to int8 with"
                       " one scale for each output channel."),
        "Int4": number("Int4 error", format="%.4f", help="The same to int4 in groups."),
    }  # fmt: skip


def _groups(found: WeightStatistics) -> None:
    st.markdown("##### Tied and duplicated tensors")
    if not found.groups:
        st.caption(f"{MISSING} No tensor shares its storage or its content with another one.")
        return
    frame = pd.DataFrame(
        {
            "Kind": [each.kind for each in found.groups],
            "Tensors": [", ".join(each.names) for each in found.groups],
            "Count": [len(each.names) for each in found.groups],
            "Size of one": [each.size_bytes / 2**20 for each in found.groups],
        }
    )
    tables.show(
        frame, key="weight_groups", file="tied-and-duplicated.csv",
        columns={"Size of one": tables.megabytes("Size of one")},
    )  # fmt: skip
    st.caption(
        "Tied tensors are one storage under several names and cost nothing twice. Duplicated ones"
        " hold equal values in storage of their own."
    )
