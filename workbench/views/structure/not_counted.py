"""The view Not counted: operators without a formula, listed and never counted as zero."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records import Profile
from workbench import tables


def show(profile: Profile) -> None:
    """The view Not counted."""
    if not profile.not_counted:
        st.success("Every operator of this run has a FLOP formula.", icon=":material/check_circle:")
        return
    frame = pd.DataFrame(
        {
            "Operator": [each.operator for each in profile.not_counted],
            "Calls": [each.calls for each in profile.not_counted],
            "Modules": [", ".join(each.modules[:6]) for each in profile.not_counted],
        }
    )
    st.markdown(
        f"{len(frame)} operators have no FLOP formula. Their time is measured and their bytes are"
        " counted; their FLOPs are unknown and **not** part of any total here."
    )
    tables.show(frame, key="not_counted", search="Search operators", file="not-counted.csv")
