"""Export: leave with a model that has proved itself."""

from workbench import layout
from workbench.views import export

study = layout.need_study()
layout.header("Export", f"{layout.study_words(study)}. Every artifact is loaded again and proved.")
export.show(study)
