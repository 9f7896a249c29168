// What stands out: colours and their legend, matches of a search, the name chosen on the page.

class TimelineMarks extends TimelineWords {
  paint() {
    if (!this.events) return;
    const { events } = this;
    this.theme = themeOf(this.root);
    const byKind = this.colours.value === "kind";
    const fills = events.names.map((name, code) => (byKind
      ? kindFill(this.theme, events.categories[events.kindOf[code]]) : nameFill(this.theme, name)));
    this.fills = fills;
    this.full = Uint32Array.from(fills, packed);
    this.dim = Uint32Array.from(fills, (each) => packed(mixed(each, this.theme.background, 0.72)));
    // A search asks where; a choice keeps its surroundings.
    this.soft = Uint32Array.from(fills, (each) => packed(mixed(each, this.theme.background, 0.5)));
    this.inks = fills.map(inkOn);
    this.softInks = fills.map((each) => inkOn(mixed(each, this.theme.background, 0.5)));
    this.map = null;
    this.explain(byKind);
    this.later();
  }

  explain(byKind) {
    const { events, theme } = this;
    this.spent ??= events.within(0, events.span).flatMap((side) => side.rows).sort((one, other) => other.self - one.self);
    const sums = new Map();
    for (const { code, self, calls } of this.spent) {
      const kind = events.kindOf[code];
      const sum = sums.get(kind) ?? { self: 0, calls: 0 };
      sums.set(kind, { self: sum.self + self, calls: sum.calls + calls });
    }
    const entries = byKind
      ? [...sums].sort(([, one], [, other]) => other.self - one.self).map(([code, sum]) => ({
        words: kindWords(events.categories[code]), fill: kindFill(theme, events.categories[code]), column: "category", code, ...sum,
      }))
      : this.spent.filter(({ code }) => !events.isMark(code)).slice(0, 12).map((each) => ({
        words: events.names[each.code], fill: this.fills[each.code], column: "name", ...each,
      }));
    this.legend.replaceChildren(...entries.map((each) => {
      const swatch = make("i");
      swatch.style.background = css(each.fill);
      const entry = make("button", {
        type: "button", onclick: () => this.only(each, entry),
        title: `${each.words}: ${counted(each.calls, "event")}, ${timeText(each.self * events.unit)} of self time. Click to see where.`,
      }, swatch, make("span", {}, each.words), make("small", {}, timeText(each.self * events.unit)));
      entry.setAttribute("aria-pressed", "false");
      return entry;
    }));
  }

  only(each, entry) {
    const again = entry.getAttribute("aria-pressed") === "true";
    this.search.value = "";
    this.unpress();
    if (!again) {
      entry.setAttribute("aria-pressed", "true");
      const codes = each.column === "name" ? this.events.names : this.events.categories;
      const table = new Uint8Array(codes.length);
      table[each.code] = 1;
      this.mark(each.column, table);
    } else this.mark("name", null);
  }

  unpress() {
    for (const each of this.legend.children) each.setAttribute("aria-pressed", "false");
  }

  searched() {
    if (!this.events) return;
    this.unpress();
    this.mark("name", namesWith(this.events.names, this.search.value));
  }

  // The events that stand out: those that are searched for, else those of the chosen name.
  mark(column, table) {
    this.hits = table ? this.events.rowsOf(column, table) : null;
    this.count();
    if (!this.hits) this.stress();
    this.later();
  }

  stress() {
    if (!this.events) return;
    const code = this.named ? this.events.names.indexOf(this.named) : -1;
    this.same = null;
    this.sameCode = code; // drawn once more on top, with its words
    if (code >= 0) {
      const table = new Uint8Array(this.events.names.length);
      table[code] = 1;
      this.same = this.events.rowsOf("name", table);
    }
    this.count();
    this.later();
  }

  count() {
    const rows = (this.hits ?? this.same)?.rows;
    this.found.textContent = !rows ? "" : !rows.length ? "no match"
      : `${counted(rows.length, "match", "matches")}${this.hits ? "" : ` of ${this.named}`}`;
    this.before.disabled = this.after.disabled = !rows?.length;
  }

  step(forward) {
    const rows = (this.hits ?? this.same)?.rows;
    if (!rows?.length) return;
    const next = this.events.nextOf(rows, this.row, forward);
    if (next >= 0) this.choose(next, { seek: true, tell: false });
  }
}
