"""What pruning will remove, from the facts that it noted; no torch."""

from __future__ import annotations

from typing import Any


def wanted_blocks(facts: Any, config: Any) -> list[dict[str, Any]]:
    """The blocks of the kind that the config asks for."""
    kinds = ("ffn", "heads") if config.target == "both" else (config.target,)
    return [each for each in facts.get("blocks", []) if each["kind"] in kinds]


def removed_units(block: dict[str, Any], config: Any) -> float:
    """Units that go from one block: rounding leaves more, never fewer, than asked."""
    units = int(block["units"])
    if block["kind"] in ("ffn", "channels"):
        stays: int = -(-round((1 - config.ratio) * units) // config.round_to) * config.round_to
        return max(0, units - max(stays, 1))
    whole: int = min(units - 1, int(config.ratio * units + 1e-9))
    if whole > 0 or block.get("shared", 1) < 2 or not block.get("by_query_heads"):
        return max(0, whole)
    shared = int(block["shared"])
    # One query head of every group, counted in groups as the units are.
    gone: int = min(shared - 1, int(config.ratio * shared + 1e-9))
    return gone * units / shared


def removed_blocks(facts: Any, config: Any) -> list[str]:
    """Names of the whole blocks that go, as far as the workload's inputs tell."""
    names = []
    for stack in facts.get("stacks", []) if config.target == "layers" else ():
        count = min(
            int(config.ratio * stack["blocks"] + 1e-9),
            len(stack["removable"]),
            stack["blocks"] - 1,
        )
        order = sorted(stack["removable"], key=stack["influence"].__getitem__)
        names += [f"{stack['name']}.{index}" for index in order[:count]]
    return names


def remaining_shares(facts: Any, config: Any) -> dict[str, float]:
    """For each module that gets smaller, the share of its work that stays."""
    sides: dict[str, list[float]] = {}
    for each in wanted_blocks(facts, config):
        gone = removed_units(each, config) / each["units"] if each["units"] else 0.0
        if each["kind"] != "channels":
            for name in each["modules"]:
                side = sides.setdefault(name, [1.0, 1.0])
                # A layer that several blocks cut loses a part by each.
                side[0] *= 1 - gone
            continue
        for at, role in enumerate(("rows", "columns")):
            for name, share in each[role].items():
                sides.setdefault(name, [1.0, 1.0])[at] -= share * gone
    return {name: rows * columns for name, (rows, columns) in sides.items() if rows * columns < 1}
