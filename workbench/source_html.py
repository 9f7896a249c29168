"""Python source as HTML: coloured, numbered, with bars of what each line costs beside it."""

from __future__ import annotations

import html
import io
import keyword
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STYLE = """<style>
.wb-src {overflow-x: auto; font-size: .84rem; line-height: 1.5; border-radius: .5rem;
  border: 1px solid color-mix(in srgb, currentColor 14%, transparent);}
.wb-src table {border-collapse: collapse; width: 100%; margin: 0; border: 0;
  font-variant-numeric: tabular-nums;}
.wb-src th {font-weight: 600; font-size: .74rem; text-align: right; opacity: .75;
  padding: .35rem .6rem; white-space: nowrap; border: 0;
  border-bottom: 1px solid color-mix(in srgb, currentColor 14%, transparent);}
.wb-src th.code, .wb-src th.bar {text-align: left;}
.wb-src td {padding: 0 .6rem; border: 0; white-space: nowrap; text-align: right;
  vertical-align: middle;}
.wb-src td.n {opacity: .55; user-select: none; padding-left: .3rem;}
.wb-src td.code, .wb-src th.code {text-align: left; white-space: pre; width: 100%;
  font-family: "Source Code Pro", ui-monospace, monospace;}
.wb-src td.bar {min-width: 9rem;}
.wb-src td.none {opacity: .35;}
.wb-src tr.hot td.code {background: color-mix(in srgb, #f59e0b calc(var(--heat) * 1%),
  transparent);}
.wb-src tr.marked td.code {box-shadow: inset 3px 0 0 #ef4444;
  background: color-mix(in srgb, #ef4444 11%, transparent);}
.wb-src td.sign {padding: 0 .1rem 0 .4rem; color: #ef4444; font-weight: 700; min-width: 1rem;}
.wb-bar {display: flex; height: .62rem; border-radius: 2px; overflow: hidden;
  background: color-mix(in srgb, currentColor 8%, transparent);}
.wb-bar i {display: block; height: 100%;}
.wb-bar .o {background: #6366f1;}
.wb-bar .p {background: #f59e0b;}
.wb-bar .w {background: #14b8a6;}
.wb-bar .b {background: color-mix(in srgb, currentColor 26%, transparent);}
.wb-note {display: inline-block; margin-right: .6rem; padding: 0 .45rem; border-radius: .4rem;
  font-family: "Source Sans", sans-serif; font-size: .76rem; line-height: 1.35;
  color: color-mix(in srgb, #ef4444 75%, currentColor);
  background: color-mix(in srgb, #ef4444 14%, transparent);}
.wb-src tr.lens td {padding-top: .35rem;}
.wb-legend {display: flex; gap: 1.2rem; flex-wrap: wrap; font-size: .8rem; opacity: .85;
  padding: .1rem 0 .4rem;}
.wb-legend span::before {content: ""; display: inline-block; width: .8rem; height: .6rem;
  border-radius: 2px; margin-right: .4rem; background: var(--c);}
@media (max-width: 1200px) {.wb-src .c2 {display: none;} .wb-src td.bar {min-width: 5rem;}
  .wb-src td, .wb-src th {padding-inline: .35rem;}}
.wb-k {color: #8b5cf6; font-weight: 600;} .wb-s {color: #0d9488;} .wb-c {opacity: .6;
  font-style: italic;} .wb-d {color: #0284c7;}
</style>"""
_SPAN = {"k": "wb-k", "s": "wb-s", "c": "wb-c", "d": "wb-d"}


@dataclass(frozen=True)
class Bar:
    """Shares of the whole, 0 to 1: operators, Python, what the line calls, its backward pass."""

    operators: float
    python: float
    below: float
    backward: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line: its cells before the bar, the bar, what is written, and notes above it.

    `painted` is the text as HTML, where it was painted among lines that are not shown.
    """

    number: int
    text: str
    cells: tuple[str, ...] = ()
    bar: Bar | None = None
    heat: float = 0.0
    is_marked: bool = False
    hover: str = ""
    notes: tuple[str, ...] = ()
    painted: str = ""


def dedented(lines: Sequence[str]) -> list[str]:
    """The lines without the indentation that all of them share."""
    return textwrap.dedent("\n".join(lines)).split("\n")


def source(rows: Sequence[Row], *, heads: Sequence[str] = (), with_bar: bool = False) -> str:
    """A table of lines; `heads` name the cells between the number and the code."""
    painted = painted_lines([each.text for each in rows])
    head = ""
    if heads:
        cells = "".join(
            f'<th class="c{index}">{html.escape(each)}</th>' for index, each in enumerate(heads)
        )
        bar = '<th class="bar">of the run</th>' if with_bar else ""
        head = f'<tr><th></th><th>line</th>{cells}{bar}<th class="code">source</th></tr>'
    body = "".join(
        _row(each, each.painted or line, with_bar=with_bar)
        for each, line in zip(rows, painted, strict=True)
    )
    return f'{STYLE}<div class="wb-src"><table>{head}{body}</table></div>'


def legend(entries: Mapping[str, str]) -> str:
    """Names beside their colours."""
    spans = "".join(
        f'<span style="--c: {colour}">{html.escape(name)}</span>'
        for name, colour in entries.items()
    )
    return f'{STYLE}<div class="wb-legend">{spans}</div>'


def painted_lines(lines: Sequence[str]) -> list[str]:
    """The lines as HTML, with keywords, strings, numbers and comments in spans.

    What does not parse on its own (a piece of a function) is painted as far as it does.
    """
    spans: dict[int, list[tuple[int, int, str]]] = {}
    reader = io.StringIO("\n".join(lines) + "\n").readline
    try:
        for token in tokenize.generate_tokens(reader):
            kind = _kind(token)
            if kind:
                _note(spans, token, kind, lines)
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass
    return [_paint(text, spans.get(index, [])) for index, text in enumerate(lines, 1)]


def _kind(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME and keyword.iskeyword(token.string):
        return "k"
    return {tokenize.STRING: "s", tokenize.COMMENT: "c", tokenize.NUMBER: "d"}.get(token.type, "")


def _note(
    spans: dict[int, list[tuple[int, int, str]]],
    token: tokenize.TokenInfo,
    kind: str,
    lines: Sequence[str],
) -> None:
    (first, begin), (last, end) = token.start, token.end
    for line in range(first, last + 1):
        start = begin if line == first else 0
        stop = end if line == last else len(lines[line - 1])
        spans.setdefault(line, []).append((start, stop, kind))


def _paint(text: str, spans: list[tuple[int, int, str]]) -> str:
    made, at = "", 0
    for start, stop, kind in spans:
        made += html.escape(text[at:start])
        made += f'<span class="{_SPAN[kind]}">{html.escape(text[start:stop])}</span>'
        at = stop
    return made + html.escape(text[at:])


def _row(row: Row, painted: str, *, with_bar: bool) -> str:
    classes = " ".join(
        name for name, on in (("hot", row.heat > 0), ("marked", row.is_marked)) if on
    )
    sign = "▸" if row.is_marked else ""
    cells = "".join(
        f'<td class="c{index} {"" if each else "none"}">{html.escape(each) or "·"}</td>'
        for index, each in enumerate(row.cells)
    )
    bar = f'<td class="bar">{_bar(row.bar)}</td>' if with_bar else ""
    return (
        f"{_lens(row, with_bar=with_bar)}"
        f'<tr class="{classes}" style="--heat: {row.heat:.0f}" title="{html.escape(row.hover)}">'
        f'<td class="sign">{sign}</td><td class="n">{row.number}</td>{cells}{bar}'
        f'<td class="code">{painted}</td></tr>'
    )


def _lens(row: Row, *, with_bar: bool) -> str:
    """The notes on a line of their own above it, as far in as the code begins."""
    if not row.notes:
        return ""
    inset = " " * (len(row.text) - len(row.text.lstrip()))
    notes = "".join(f'<span class="wb-note">◆ {html.escape(each)}</span>' for each in row.notes)
    cells = "".join(f'<td class="c{index}"></td>' for index in range(len(row.cells)))
    bar = "<td></td>" if with_bar else ""
    return (
        f'<tr class="lens"><td></td><td></td>{cells}{bar}<td class="code">{inset}{notes}</td></tr>'
    )


def _bar(bar: Bar | None) -> str:
    if bar is None:
        return ""
    parts = (("o", bar.operators), ("p", bar.python), ("b", bar.below), ("w", bar.backward))
    inner = "".join(
        f'<i class="{name}" style="width: {100 * share:.2f}%"></i>' for name, share in parts
    )
    return f'<div class="wb-bar">{inner}</div>'
