"""The entry script: navigation, the sidebar, then the chosen page."""

from pathlib import Path

import streamlit as st

from workbench import layout, navigation, session, sidebar, tour

_ASSETS = Path(__file__).resolve().parent / "assets"

st.set_page_config(
    page_title="Model Workbench",
    page_icon=str(_ASSETS / "icon.svg"),
    layout="wide",
    initial_sidebar_state="expanded",
)
st.logo(str(_ASSETS / "logo.svg"), icon_image=str(_ASSETS / "icon.svg"), size="large")
layout.style()
chosen = st.navigation(navigation.grouped_pages())
session.keep_address()
navigation.leave_open(chosen)
sidebar.show()
tour.show(navigation.name_of(chosen))
chosen.run()
