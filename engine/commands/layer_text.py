"""Sensitivity maps, mixes and distances as text."""

from __future__ import annotations

from engine.commands.tables import table
from engine.quantities import bytes_text, ms_text, number_text
from engine.records import LayerDistance, LayerDistances, Mix, MixCheck, Sensitivity

_UNITS = {"kl_divergence": "KL divergence, nats an answer", "relative_error": "relative error"}
_SHOWN = 40


def sensitivity_text(found: Sensitivity) -> str:
    """The map: damage and what is saved, a row a layer."""
    names = [each.name for each in found.schemes]
    cells = {(each.layer, each.scheme): each for each in found.cells}
    rows = []
    for layer in found.layers:
        row = [layer.name, layer.type, bytes_text(layer.size_bytes)]
        for name in names:
            cell = cells.get((layer.name, name))
            shown = "not yet"
            if cell is not None:
                shown = "BROKEN" if cell.is_broken else "-"
                if cell.damage is not None:
                    shown = f"{number_text(cell.damage)} ({bytes_text(cell.saved_bytes)})"
            row.append(shown)
        rows.append(row)
    data = f"{found.examples} calibration examples" if found.examples else "the workload's inputs"
    lines = [
        f"{found.model}: damage ({_UNITS[found.damage_kind]}) of one layer changed alone, and what"
        f" is saved; on {data}",
        *(f"  {each.name}: {each.title}" for each in found.schemes),
        "",
        table(("layer", "type", "size", *names), rows, right=2),
    ]
    if found.missing:
        lines.append(
            f"{found.missing} cells are missing, about {found.forecast_seconds:.0f} s: run it again"
            " to go on"
        )
    reasons = sorted({f"{each.scheme}: {each.reason}" for each in found.cells if each.reason})
    lines += [f"  - {each}" for each in reasons[:10]]
    return "\n".join([*lines, *found.warnings])


def mix_text(found: Mix, checked: MixCheck | None = None) -> str:
    """A mix with its recipe, and whether the sum was right."""
    time = ""
    if found.saved_ms is not None:
        time = f", {ms_text(found.saved_ms.low)} to {ms_text(found.saved_ms.high)} a run"
    lines = [
        "",
        f"best mix: {len(found.chosen)} layers, damage {number_text(found.damage)} (sum), saves"
        f" {bytes_text(found.saved_bytes)}{time}",
        f"--recipe '{found.recipe}'",
    ]
    if checked is not None:
        if checked.measured is None:
            lines.append(f"not checked: {checked.reason}")
        else:
            lines.append(
                f"checked: the whole does {number_text(checked.measured)} where the sum says"
                f" {number_text(checked.predicted)}, and saves"
                f" {bytes_text(checked.measured_bytes)} where it says"
                f" {bytes_text(checked.predicted_bytes)}"
            )
    return "\n".join(lines)


def distances_text(found: LayerDistances) -> str:
    """Where the variant parts from the model: modules in the order of the run."""
    leaves = [each for each in found.rows if each.is_leaf or each.fate != "same"]
    shown = leaves
    if len(leaves) > _SHOWN:
        worst = sorted(leaves, key=lambda each: -(each.added or 0.0))[:_SHOWN]
        shown = sorted(worst, key=lambda each: each.order)
    head = ("module", "what", "error", "of it added here", "cosine", "time", "bytes")
    lines = [
        f"{found.recipe}: relative error {number_text(found.output_error)} of the answers",
        table(head, [_distance_row(each) for each in shown], right=2),
    ]
    if len(leaves) > _SHOWN:
        lines.append(f"{len(leaves) - _SHOWN} modules that add less are not shown (--json has all)")
    return "\n".join([*lines, *found.warnings])


def _distance_row(each: LayerDistance) -> tuple[str, ...]:
    return (
        each.name, each.words or each.fate, number_text(each.relative_error),
        number_text(each.added), number_text(each.cosine),
        f"{ms_text(each.time_ms)} > {ms_text(each.variant_time_ms)}",
        f"{bytes_text(each.size_bytes)} > {bytes_text(each.variant_size_bytes)}",
    )  # fmt: skip
