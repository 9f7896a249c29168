"""Dropout that runs although nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.lineage import name_of
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence


class RandomInEvaluation(Rule):
    """Dropout in evaluation mode: it costs time and makes the answers random."""

    title = "Dropout runs in evaluation mode"
    advice = "Pass training=self.training to functional.dropout, or use nn.Dropout and call eval()."
    theory = (
        "functional.dropout drops by default, whatever mode the module is in. Answers then differ"
        " from call to call, and every comparison with another variant is noise."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Random operators of dropout outside of training."""
        if seen.opened.workload.kind == "train_step":
            return
        nodes = [
            each for each in seen.recording.nodes
            if name_of(each) in ("native_dropout", "bernoulli") and seen.line_of(each) is not None
        ]  # fmt: skip
        for (file, _), group in seen.by_function(nodes).items():
            yield Found(
                file, seen.lines_of(group), "Values are dropped at random outside of training.",
                nodes=group, calls=calls_of(group), modules=seen.modules(group), at_least="high",
                evidence=(Evidence("calls of dropout", calls_of(group), "calls"),),
            )  # fmt: skip
