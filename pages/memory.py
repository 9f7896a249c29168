"""The page Memory."""

from workbench import jobs, layout
from workbench.views import memory as view

layout.study_header("Memory", "what holds it at the peak of one run.")
jobs.show_ended(("profile",))
profile = layout.need_profile()
view.figures(profile)
with layout.card("What holds it at the peak"):
    view.ledger(profile)
with layout.card("What fits", "Peak tensor memory for other batches and lengths."):
    view.what_fits(profile)
layout.next_step("Suggestions tell which steps make it smaller.", "Suggestions", "suggestions")
