// The timeline: tracks of nested events on one canvas, and what the person does with them.

const KEYS = [
  ["W S", "zoom in and out"], ["A D", "earlier and later"], ["wheel", "zoom at the pointer"],
  ["drag", "move"], ["Shift + drag", "measure a range"], ["double click", "zoom to the event"],
  ["← →", "previous and next event of the lane"], ["↑ ↓", "caller and first call inside"],
  ["F", "zoom to what is chosen"], ["0", "the whole trace"], ["/", "search"],
  ["N, Shift + N", "next and previous match"], ["Esc", "let go of the choice"],
  ["wheel over names", "scroll the tracks"], ["click on a name", "fold the track"],
];

class Timeline extends TimelineHands {
  constructor(root, data) {
    super();
    this.root = root;
    this.url = data.url;
    this.began = performance.now();
    this.frames = [];
    this.gaps = [];
    this.row = -1;
    this.hover = -1;
    this.range = null;
    this.folded = new Set();
    this.scroll = 0;
    this.held = new Set();
    this.named = this.told = "";
    this.sameCode = -1;
    this.build();
    this.listen();
    this.load();
  }

  remove() {
    this.gone = true;
    this.observer?.disconnect();
    this.root.replaceChildren();
  }

  update(data) {
    if (data.height !== this.most) {
      this.most = data.height;
      this.fit();
    }
    // Only what the page has chosen anew counts: it need not take up every click.
    if (data.selected === this.told) return;
    this.told = data.selected;
    if (data.selected === this.named) return;
    this.named = data.selected;
    if (this.row >= 0 && this.events.nameOf(this.row) !== data.selected) this.let();
    this.stress();
  }

  build() {
    const button = (label, title, act) => {
      const made = make("button", { type: "button", title, onclick: act }, label);
      made.setAttribute("aria-label", title);
      return made;
    };
    this.search = make("input", {
      type: "search", placeholder: "Search events", oninput: () => this.searched(),
    });
    this.search.setAttribute("aria-label", "Search events by name");
    this.found = make("span", { className: "note" });
    this.found.setAttribute("aria-live", "polite");
    this.before = button("‹", "Previous match", () => this.step(false));
    this.after = button("›", "Next match", () => this.step(true));
    this.colours = make("select", { onchange: () => this.paint() },
      make("option", { value: "name" }, "Colour: name"),
      make("option", { value: "kind" }, "Colour: kind"));
    this.colours.setAttribute("aria-label", "Colour of events");
    this.about = make("span", { className: "note" });
    this.help = button("?", "Keys and gestures", () => this.toggleKeys());
    this.canvas = make("canvas");
    this.tip = make("div", { className: "tip", hidden: true });
    this.hint = make("div", { className: "hint" }, "Click the timeline, or hold Ctrl, to zoom with the wheel");
    this.wait = make("div", { className: "wait" }, "Fetching the trace…");
    this.stage = make("div", { className: "stage", tabIndex: 0 }, this.canvas, this.tip, this.hint, this.wait);
    this.stage.setAttribute("role", "application");
    this.stage.setAttribute("aria-label", "Timeline of the trace: W and S zoom, A and D move, arrows walk from event to event");
    this.stage.timeline = this;
    this.legend = make("div", { className: "legend" });
    this.detail = make("div", { className: "detail" });
    this.detail.setAttribute("aria-live", "polite");
    this.keys = make("div", { className: "detail keys", hidden: true },
      ...KEYS.map(([key, words]) => make("span", {}, make("kbd", {}, key), ` ${words}`)));
    this.body = make("div", {},
      make("div", { className: "bar" }, this.search,
        make("span", { className: "group" }, this.before, this.after), this.found,
        make("span", { className: "space" }), this.about, this.colours,
        make("span", { className: "group" },
          button("−", "Zoom out", () => this.zoom(1.6)), button("+", "Zoom in", () => this.zoom(1 / 1.6)),
          button("Fit", "Show the whole trace", () => this.show(0, this.events?.span ?? 1))),
        this.help),
      this.stage, this.legend, this.keys, this.detail);
    this.root.replaceChildren(this.body);
    this.context = this.canvas.getContext("2d", { alpha: false });
    onTheme(this.root, () => this.paint());
  }

  toggleKeys() {
    this.keys.hidden = !this.keys.hidden;
    this.help.setAttribute("aria-pressed", String(!this.keys.hidden));
  }

  async load() {
    try {
      const content = await (await fetched(this.url)).arrayBuffer();
      if (this.gone) return;
      this.fetchedAfter = performance.now() - this.began;
      this.events = new Events(content);
    } catch (error) {
      this.wait.textContent = `The timeline cannot be shown: ${error.message}. Read the trace again.`;
      return;
    }
    if (!this.events.count) {
      this.events = null;
      this.wait.textContent = "The trace holds no event that could be drawn.";
      return;
    }
    this.wait.remove();
    const { count, span, unit, leftOut } = this.events;
    const left = leftOut ? ` · ${counted(leftOut, "shortest event")} left out` : "";
    this.about.textContent = `${counted(count, "event")} · ${timeText(span * unit)}${left}`;
    [this.from, this.to] = [0, span];
    this.paint();
    this.fit();
    this.stress();
    this.tell();
    this.draw();
    this.drawnAfter = performance.now() - this.began;
    this.stage.dataset.drawnMs = this.drawnAfter.toFixed(1);
  }

  choose(row, { seek = false, tell = false } = {}) {
    this.row = row;
    this.range = null;
    this.links = this.events.launched(row, MOST_ARROWS);
    if (seek) this.seek(row);
    this.tell();
    if (tell) this.announce(row);
    this.later();
  }

  announce(row) {
    this.named = this.events.nameOf(row);
    this.stress();
    this.send(this.named);
  }

  let(all = false) {
    this.row = -1;
    this.links = null;
    this.range = null;
    if (all) {
      this.search.value = "";
      this.unpress();
      this.hits = null;
      if (this.named) this.send("");
      this.named = "";
      this.stress();
    }
    this.tell();
    this.later();
  }
}

export default mounted(Timeline);
