// What is told of an event and of a range.

class TimelineWords extends TimelineFrame {
  facts(row) {
    const { events } = this;
    const { unit } = events;
    const lane = events.laneOf(row);
    const track = events.tracks[lane.track];
    const code = (column) => (events[column] && events[column][row] !== NO_ROW ? events[column][row] : -1);
    const by = events.launcherOf(row);
    const [module, shape] = [code("module"), code("shape")];
    return [
      ["duration", timeText(events.duration[row] * unit)],
      ["self", track.device < 0 ? timeText(events.self(row) * unit) : ""],
      ["start", timeText(events.start[row] * unit)],
      ["kind", kindWords(events.categories[events.category[row]])],
      ["module", module >= 0 ? events.modules[module] : ""],
      ["shapes", shape >= 0 ? events.shapes[shape] : ""],
      ["on", `${track.process} · ${track.thread}`],
      ["launched by", by >= 0 ? `${events.nameOf(this.operatorOf(by))}, ${timeText((events.start[row] - events.start[by]) * unit)} before` : ""],
    ];
  }

  // The operator around a call of the runtime.
  operatorOf(row) {
    const kind = this.events.categories[this.events.category[row]];
    if (!kind.endsWith("runtime") && !kind.endsWith("driver")) return row;
    const above = this.events.parent(row);
    return above >= 0 ? above : row;
  }

  fillTip(row) {
    const merged = this.events.duration[row] * this.scale < 1 ? "Several events share this pixel: zoom in." : null;
    this.tip.replaceChildren(make("b", {}, this.events.nameOf(row)), listed(this.facts(row)));
    if (merged) this.tip.append(make("div", { className: "note" }, merged));
  }

  tell() {
    if (!this.events) return;
    if (this.range) this.tellRange();
    else if (this.row >= 0) this.tellRow(this.row);
    else {
      this.detail.replaceChildren(make("span", { className: "note" },
        "Click an event for its time, its module and what it launched; it is chosen on the whole page. Shift + drag, or drag along the ruler, measures a range. ? lists the keys."));
    }
  }

  tellRow(row) {
    const { events } = this;
    const { unit } = events;
    const code = events.name[row];
    const act = (words, title, done) => make("button", { type: "button", title, onclick: done }, words);
    const link = (each) => act(shortened(events.nameOf(each)), `Go to ${events.nameOf(each)}`, () => this.choose(each, { seek: true }));
    const path = [];
    for (let each = events.parent(row); each >= 0 && path.length < 40; each = events.parent(each)) path.unshift(each);
    const callers = make("span", { className: "path" });
    path.forEach((each, index) => callers.append(index ? " › " : "", link(each)));
    const by = events.launcherOf(row);
    const { links } = this;
    const kernels = make("span", { className: "path" });
    links.rows.slice(0, 6).forEach((each, index) => kernels.append(index ? ", " : "", link(each)));
    const calls = events.calls[code];
    const all = `${counted(calls, "call")}, ${timeText(events.totals[code] * unit)} in all, `
      + `${timeText((events.totals[code] / calls) * unit)} on average, ${timeText(events.longest[code] * unit)} at most`;
    const swatch = make("i");
    Object.assign(swatch.style, { width: "12px", height: "12px", borderRadius: "3px", background: css(this.fills[code]) });
    this.detail.replaceChildren(
      make("div", { className: "head" }, swatch, make("h6", {}, events.nameOf(row)), make("span", { className: "space" }),
        act("Zoom to it (F)", "Show it as wide as the view", () => this.frame(row)),
        act("Close", "Let go of the choice", () => this.let(true))),
      make("div", { className: "columns" },
        listed(this.facts(row).filter(([word]) => word !== "launched by")),
        listed([
          ["same name", all],
          ["called by", path.length ? callers : ""],
          ["launched by", by >= 0 ? make("span", { className: "path" }, link(this.operatorOf(by)), ` ${timeText((events.start[row] - events.start[by]) * unit)} before it began`) : ""],
          ["launches", links.count ? make("span", {}, `${counted(links.count, "kernel or copy", "kernels and copies")}, ${timeText(links.total * unit)} on the device: `, kernels, links.count > 6 ? " …" : "") : ""],
        ])));
  }

  tellRange() {
    const { events } = this;
    const { unit } = events;
    const [from, to] = this.range;
    const sides = events.within(from, to);
    const table = (words, side) => {
      if (!side.events) return null;
      const whole = side.rows.reduce((sum, each) => sum + each.self, 0);
      const rows = side.rows.slice(0, 8).map(({ code, self, calls }) => make("tr", {},
        make("td", { title: events.names[code] }, shortened(events.names[code])), make("td", { className: "n" }, timeText(self * unit)),
        make("td", { className: "n" }, shareText(self, whole)), make("td", { className: "n" }, calls.toLocaleString("en"))));
      const rest = side.rows.length > 8 ? make("div", { className: "note" }, `and ${counted(side.rows.length - 8, "further name")}`) : null;
      return make("div", {}, make("table", {}, make("thead", {}, make("tr", {},
        make("th", {}, `${words}: ${counted(side.events, "event")}`), make("th", { className: "n" }, "self"),
        make("th", { className: "n" }, "share"), make("th", { className: "n" }, "calls"))), make("tbody", {}, ...rows)), rest);
    };
    const close = make("button", { type: "button", onclick: () => this.let() }, "Close");
    const zoom = make("button", { type: "button", onclick: () => this.show(from, to) }, "Zoom to it (F)");
    this.detail.replaceChildren(
      make("div", { className: "head" }, make("h6", {}, `${timeText((to - from) * unit)} from ${timeText(from * unit)} to ${timeText(to * unit)}`),
        make("span", { className: "space" }), zoom, close),
      make("div", { className: "columns" }, table("Host", sides[0]), table("Devices", sides[1])));
  }
}
