"""A generation that runs the whole prefix again for every token."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen
from engine.profile.code.sources import Function
from engine.records import Evidence


class PrefixRecomputed(Rule):
    """Every step asks the model for all positions although one is new."""

    title = "The whole prefix runs again for every token"
    advice = (
        "Keep keys and values of the positions that were seen (a KV cache), and call the model on"
        " the newest token only."
    )
    theory = (
        "Keys and values of earlier positions do not change in a causal model. Without a cache n"
        " tokens cost about n²/2 positions instead of n."
    )
    technique = "kv_cache"

    def find(self, seen: Seen) -> Iterator[Found]:
        """A decoder that keeps no cache."""
        decoder, workload = seen.opened.program.decoder, seen.opened.workload
        if workload.kind != "generate" or decoder is None or decoder.keeps_cache:
            return
        prompt, steps = workload.prompt_tokens or 1, (workload.new_tokens or 1) - 1
        if steps < 1:
            return
        asked = sum(prompt + each for each in range(1, steps + 1))
        again = 1 - steps / asked
        decode = seen.phases_ms.get("decode")
        place = _loop(seen) or _root(seen)
        if place is None:
            return
        file, lines = place
        yield Found(
            file, lines,
            f"{steps:,} steps ask for {asked:,} positions; {steps:,} of them are new.",
            calls=float(steps), time_ms=again * decode if decode is not None else None,
            charge="nothing", at_least="medium", modules=("(model)",),
            evidence=(Evidence("positions that were computed before", again, "share"),),
        )  # fmt: skip


def _loop(seen: Seen) -> tuple[str, set[int]] | None:
    for function in seen.workload_functions():
        found = _grown(function.node)
        if found:
            return function.file, found
    return None


def _grown(function: Function | None) -> set[int]:
    """The lines of a loop that call something on what they lengthen by cat."""
    for loop in ast.walk(function or ast.Pass()):
        if not isinstance(loop, ast.For | ast.While):
            continue
        grown: dict[str, int] = {}
        for each in ast.walk(loop):
            if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                name, value = each.targets[0].id, each.value
                is_cat = isinstance(value, ast.Call) and "cat" in ast.unparse(value.func)
                names = {e.id for e in ast.walk(value) if isinstance(e, ast.Name)}
                if is_cat and name in names:
                    grown[name] = each.lineno
        for each in ast.walk(loop):
            if isinstance(each, ast.Call) and "cat" not in ast.unparse(each.func):
                given = {arg.id for arg in each.args if isinstance(arg, ast.Name)}
                for name in given & set(grown):
                    return {each.lineno, grown[name]}
    return set()


def _root(seen: Seen) -> tuple[str, set[int]] | None:
    root = seen.root_forward()
    if root is None:
        return None
    function = seen.sources.function_at(root.file, root.line)
    node = function.node if function else None
    return root.file, {node.lineno if node else root.line}
