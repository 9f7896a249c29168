"""The page Compare: which answers, prompts and tokens a variant damaged, with the examples."""

from __future__ import annotations

import html
from collections.abc import Callable

import streamlit as st

from engine import api
from engine.quality_text import flips_text
from engine.records import (
    Comparison,
    DivergenceAlong,
    FlippedAnswer,
    PartedPrompt,
    VariantDamage,
    VariantResult,
)
from workbench import charts, layout, session
from workbench.quantities import digits

_KINDS = {
    "to wrong": ("Right before, wrong now", ":material/trending_down:"),
    "to right": ("Wrong before, right now", ":material/trending_up:"),
    "changed": ("Another answer", ":material/swap_horiz:"),
}
_STYLE = """<style>
.wb-text {font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  padding: .55rem .7rem; border-radius: .5rem; background: rgba(128,134,160,.12);
  max-height: 17rem; overflow-y: auto;}
.wb-text .asked {opacity: .6;}
.wb-text mark {background: rgba(245,158,11,.34); color: inherit; border-radius: .2rem;
  border-left: 3px solid #f59e0b; padding-left: 1px;}
.wb-flip {display: flex; flex-wrap: wrap; gap: .2rem .8rem; align-items: center;
  margin-bottom: .7rem;}
.wb-flip img {width: 56px; height: 56px; image-rendering: pixelated; border-radius: .35rem;
  flex: none;}
.wb-flip .wb-text {flex: 1 1 13rem; max-height: 5.6rem;}
.wb-flip .answers {flex: 0 1 13.5rem; font-size: 13.5px; line-height: 1.5;}
.wb-flip .answers code {font-size: 12.5px;}
</style>"""


def show(comparison: Comparison, shown: list[VariantResult]) -> bool:
    """The worst examples of one variant, which is chosen here; whether there are any."""
    found = api.damage(comparison, store=session.store())
    if found is None:
        return False
    names = {each.name for each in shown}
    damaged = [each for each in found.variants if each.name in names and _has_any(each)]
    if not damaged:
        return False
    with layout.card(
        "What it did to the answers", "The worst examples on evaluation data, baseline and variant"
    ):
        st.html(_STYLE)
        chosen = damaged[0]
        if len(damaged) > 1:
            picked = st.segmented_control(
                "Variant", [each.name for each in damaged], default=damaged[0].name, required=True,
                key=f"damage_of_{comparison.id}", label_visibility="collapsed",
            )  # fmt: skip
            chosen = next((each for each in damaged if each.name == picked), damaged[0])
        result = next(each for each in shown if each.name == chosen.name)
        sections: list[tuple[str, object, Callable[[], None]]] = [
            (f"Flipped answers ({len(chosen.flips) + chosen.flips_left_out:,})", chosen.flips,
             lambda: _flips(chosen, result)),
            (f"Prompts that part ({len(chosen.prompts) + chosen.prompts_left_out})",
             chosen.prompts, lambda: _prompts(chosen, comparison)),
            ("KL along the tokens", chosen.along, lambda: _along(chosen, comparison)),
            ("Confusion", chosen.confusion_before, lambda: _confusion(chosen)),
        ]  # fmt: skip
        there = [(title, draw) for title, content, draw in sections if content]
        for tab, (_, draw) in zip(st.tabs([title for title, _ in there]), there, strict=True):
            with tab:
                draw()
    return any(each.prompts for each in damaged)


def _has_any(each: VariantDamage) -> bool:
    return bool(each.flips or each.prompts or each.along or each.confusion_before)


def _flips(damage: VariantDamage, result: VariantResult) -> None:
    words = flips_text(result.fidelity) if result.fidelity else ""
    left_out = f"; {damage.flips_left_out:,} more are not shown" if damage.flips_left_out else ""
    st.caption(f"{words}. The most certain first{left_out}." if words
               else f"The most certain first{left_out}.")  # fmt: skip
    kinds = [kind for kind in _KINDS if any(each.kind == kind for each in damage.flips)]
    for column, kind in zip(st.columns(len(kinds), gap="medium"), kinds, strict=True):
        title, icon = _KINDS[kind]
        with column:
            st.markdown(f"###### {icon} {title}")
            rows = [_flip_html(each) for each in damage.flips if each.kind == kind]
            st.html("".join(rows))


def _flip_html(each: FlippedAnswer) -> str:
    seen = ""
    if each.image:
        seen = f'<img alt="input" src="data:image/png;base64,{html.escape(each.image)}">'
    elif each.text:
        seen = f'<div class="wb-text">{html.escape(each.text)}</div>'
    meant = f"label <code>{_shown(each.label)}</code><br>" if each.label else ""
    return (
        f'<div class="wb-flip">{seen}<div class="answers">{meant}'
        f"before <code>{_shown(each.before)}</code> {100 * each.confidence_before:.0f} %<br>"
        f"now <code>{_shown(each.after)}</code> {100 * each.confidence_after:.0f} %</div></div>"
    )


def _shown(token: str) -> str:
    """A token whose blanks can be seen."""
    return html.escape(token.replace("\n", "⏎").replace(" ", "␣")) or "∅"


def _prompts(damage: VariantDamage, comparison: Comparison) -> None:
    number = 0
    if len(damage.prompts) > 1:
        number = st.segmented_control(
            "Prompt", range(len(damage.prompts)), default=0, required=True,
            key=f"parted_{comparison.id}_{damage.name}", label_visibility="collapsed",
            format_func=lambda index: f"Prompt {damage.prompts[index].number + 1}",
        ) or 0  # fmt: skip
    each = damage.prompts[number]
    left_out = f" {damage.prompts_left_out} more part later." if damage.prompts_left_out else ""
    st.caption(
        f"They part at new token {each.token + 1} of {each.tokens}; what differs from there on is"
        f" marked.{left_out}"
    )
    left, right = st.columns(2, gap="medium")
    for column, name, text in (
        (left, "baseline", each.before), (right, damage.name, each.after)
    ):  # fmt: skip
        with column:
            st.markdown(f"**{name}**")
            st.html(parted_html(each, text))


def parted_html(each: PartedPrompt, text: str) -> str:
    """One of the two texts, with the part behind the point where they part marked."""
    same = _common(each.before, each.after)
    rest = html.escape(text[same:])
    return (
        f'<div class="wb-text"><span class="asked">{html.escape(each.prompt)}</span>'
        f"{html.escape(text[:same])}{f'<mark>{rest}</mark>' if rest else ''}</div>"
    )


def _common(first: str, second: str) -> int:
    """How many letters both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    parted = (index for index, (ours, theirs) in pairs if ours != theirs)
    return next(parted, min(len(first), len(second)))


def _along(damage: VariantDamage, comparison: Comparison) -> None:
    number = 0
    if len(damage.along) > 1:
        number = st.segmented_control(
            "Text", range(len(damage.along)), default=0, required=True,
            key=f"along_{comparison.id}_{damage.name}", label_visibility="collapsed",
            format_func=lambda index: f"Text {index + 1}",
        ) or 0  # fmt: skip
    each = damage.along[number]
    chart = charts.figure(height=270, x="token of the text", y="KL (nats)")
    places = [each.first + index for index in range(len(each.kl))]
    chart.add_bar(
        x=places, y=list(each.kl), marker_color=charts.PALETTE[0], marker_line_width=0,
        customdata=[_around(each, index) for index in range(len(each.kl))],
        hovertemplate="token %{x}: %{y:.3g} nats<br>%{customdata}<extra></extra>",
    )  # fmt: skip
    chart.update_layout(bargap=0.1, barcornerradius=0)
    worst = max(range(len(each.kl)), key=each.kl.__getitem__)
    mean = sum(each.kl) / len(each.kl)
    charts.show(
        chart,
        f"Example {each.example + 1}: how far the next-token distribution moved after each token,"
        f" {digits(mean)} nats on average, {digits(each.kl[worst])} after token {places[worst]}.",
        key="compare_along",
    )
    before = "".join(each.tokens[max(0, worst - 30) : worst])
    after = "".join(each.tokens[worst + 1 : worst + 16])
    st.html(
        f'<div class="wb-text">{html.escape(before)}<mark>{html.escape(each.tokens[worst])}</mark>'
        f'<span class="asked">{html.escape(after)}</span></div>'
    )


def _around(each: DivergenceAlong, index: int) -> str:
    before = "".join(each.tokens[max(0, index - 8) : index])
    return html.escape(f"…{before}[{each.tokens[index]}]".replace("\n", "⏎"))


def _confusion(damage: VariantDamage) -> None:
    before, after = damage.confusion_before, damage.confusion_after
    delta = [
        [new - old for old, new in zip(*rows, strict=True)]
        for rows in zip(before, after, strict=True)
    ]
    largest = max((abs(value) for row in delta for value in row), default=0) or 1
    names = [
        damage.classes[index] if index < len(damage.classes) else str(index)
        for index in range(len(delta))
    ]
    middle = "#1a1f2e" if charts.is_dark() else "#f4f5f9"
    chart = charts.figure(height=120 + 30 * len(names), x="answer", y="label")
    # On the diagonal more is better, beside it worse: the colour says which.
    tint = [[value if row == column else -value for column, value in enumerate(values)]
            for row, values in enumerate(delta)]  # fmt: skip
    chart.add_heatmap(
        z=tint, x=names, y=names, zmin=-largest, zmax=largest, showscale=False, xgap=2, ygap=2,
        colorscale=[[0, charts.BAD], [0.5, middle], [1, charts.GOOD]],
        text=[[f"{value:+d}" if value else "" for value in row] for row in delta],
        texttemplate="%{text}", customdata=[[f"{old} before, {new} now" for old, new in
                                             zip(*rows, strict=True)]
                                            for rows in zip(before, after, strict=True)],
        hovertemplate="label %{y}, answer %{x}: %{customdata}<extra></extra>",
    )  # fmt: skip
    chart.update_yaxes(autorange="reversed", type="category", showgrid=False)
    chart.update_xaxes(type="category")
    lost = sum(row[index] for index, row in enumerate(delta))
    charts.show(
        chart,
        f"Answers now less answers before; the diagonal holds the right ones, {lost:+d} in all."
        " Green is better, red worse.",
        key="compare_confusion",
    )
