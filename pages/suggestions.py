"""The page Suggestions."""

from workbench import jobs, layout, session
from workbench.views import suggestions as view

layout.study_header("Suggestions", "ranked by predicted gain, each with what triggered it.")
jobs.show_ended(("profile",))
profile = layout.need_profile(runtime=True)
found = session.suggestions(profile)
view.recipe_bar(session.recipe())
if found:
    view.show(found)
else:
    layout.empty(
        ":material/thumb_up:",
        "Nothing to suggest",
        "No rule found anything that would pay here. You can still toggle steps yourself.",
        lambda: layout.button("Optimize", "optimize", primary=True),
    )
