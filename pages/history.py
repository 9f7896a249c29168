"""History: every study, variant and job, with its log."""

from workbench import layout
from workbench.views import history

layout.header("History", "Every study, result and job on this machine, the newest first.")
history.show()
