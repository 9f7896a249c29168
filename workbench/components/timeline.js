// The timeline: tracks of nested events on one canvas, whatever their number.

const LANE = 17;
const HEAD = 22;
const MAP = 40;
const RULER = 24;
const FOOT = 8;
const KEPT_FRAMES = 600;
const MOST_LABELS = 700;
const MOST_ARROWS = 40;
const KEYS = [
  ["W S", "zoom in and out"], ["A D", "earlier and later"], ["wheel", "zoom at the pointer"],
  ["drag", "move"], ["Shift + drag", "measure a range"], ["double click", "zoom to the event"],
  ["← →", "previous and next event of the lane"], ["↑ ↓", "caller and first call inside"],
  ["F", "zoom to what is chosen"], ["0", "the whole trace"], ["/", "search"],
  ["N, Shift + N", "next and previous match"], ["Esc", "let go of the choice"],
  ["wheel over names", "scroll the tracks"], ["click on a name", "fold the track"],
];

class Timeline {
  constructor(root, data) {
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
    this.#build();
    this.#listen();
    this.#load();
  }

  remove() {
    this.gone = true;
    this.observer?.disconnect();
    this.root.replaceChildren();
  }

  update(data) {
    if (data.height !== this.most) {
      this.most = data.height;
      this.#fit();
    }
    // Only what the page has chosen anew counts: it need not take up every click.
    if (data.selected === this.told) return;
    this.told = data.selected;
    if (data.selected === this.named) return;
    this.named = data.selected;
    if (this.row >= 0 && this.events.nameOf(this.row) !== data.selected) this.#let();
    this.#stress();
  }

  // As high as the page allows, and no higher than the tracks are.
  #fit() {
    const tracks = this.events?.tracks ?? [];
    const processes = new Set(tracks.map((each) => each.process)).size;
    const lanes = tracks.reduce((sum, each) => sum + each.lanes.length * LANE + FOOT, 0);
    const wanted = MAP + RULER + processes * HEAD + lanes + 4;
    this.height = tracks.length ? Math.min(this.most, Math.max(200, wanted)) : this.most;
    this.stage.style.height = `${this.height}px`;
    this.#resize();
  }

  // ---- what the page holds -----------------------------------------------------------------

  #build() {
    const button = (label, title, act) => {
      const made = make("button", { type: "button", title, onclick: act }, label);
      made.setAttribute("aria-label", title);
      return made;
    };
    this.search = make("input", {
      type: "search", placeholder: "Search events", oninput: () => this.#search(),
    });
    this.search.setAttribute("aria-label", "Search events by name");
    this.found = make("span", { className: "note" });
    this.found.setAttribute("aria-live", "polite");
    this.before = button("‹", "Previous match", () => this.#step(false));
    this.after = button("›", "Next match", () => this.#step(true));
    this.colours = make("select", { onchange: () => this.#paint() },
      make("option", { value: "name" }, "Colour: name"),
      make("option", { value: "kind" }, "Colour: kind"));
    this.colours.setAttribute("aria-label", "Colour of events");
    this.about = make("span", { className: "note" });
    this.help = button("?", "Keys and gestures", () => this.#toggleKeys());
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
          button("−", "Zoom out", () => this.#zoom(1.6)), button("+", "Zoom in", () => this.#zoom(1 / 1.6)),
          button("Fit", "Show the whole trace", () => this.#show(0, this.events?.span ?? 1))),
        this.help),
      this.stage, this.legend, this.keys, this.detail);
    this.root.replaceChildren(this.body);
    this.context = this.canvas.getContext("2d", { alpha: false });
    onTheme(this.root, () => this.#paint());
  }

  #toggleKeys() {
    this.keys.hidden = !this.keys.hidden;
    this.help.setAttribute("aria-pressed", String(!this.keys.hidden));
  }

  async #load() {
    try {
      const content = await (await fetched(this.url)).arrayBuffer();
      if (this.gone) return;
      this.fetchedAfter = performance.now() - this.began;
      this.events = new Events(content);
    } catch (error) {
      this.wait.textContent = `The timeline cannot be shown: ${error.message}. Read the trace again.`;
      return;
    }
    this.wait.remove();
    const { count, span, unit, leftOut } = this.events;
    const left = leftOut ? ` · ${counted(leftOut, "shortest event")} left out` : "";
    this.about.textContent = `${counted(count, "event")} · ${timeText(span * unit)}${left}`;
    [this.from, this.to] = [0, span];
    this.#paint();
    this.#fit();
    this.#stress();
    this.#tell();
    this.#draw();
    this.drawnAfter = performance.now() - this.began;
    this.stage.dataset.drawnMs = this.drawnAfter.toFixed(1);
  }

  // ---- colours, matches --------------------------------------------------------------------

  #paint() {
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
    this.#explain(byKind);
    this.later();
  }

  #explain(byKind) {
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
      : this.spent.filter(({ code }) => !events.categories[events.kindOf[code]].endsWith("annotation")).slice(0, 12).map((each) => ({
        words: events.names[each.code], fill: this.fills[each.code], column: "name", ...each,
      }));
    this.legend.replaceChildren(...entries.map((each) => {
      const swatch = make("i");
      swatch.style.background = css(each.fill);
      const entry = make("button", {
        type: "button", onclick: () => this.#only(each, entry),
        title: `${each.words}: ${counted(each.calls, "event")}, ${timeText(each.self * events.unit)} of self time. Click to see where.`,
      }, swatch, make("span", {}, each.words), make("small", {}, timeText(each.self * events.unit)));
      entry.setAttribute("aria-pressed", "false");
      return entry;
    }));
  }

  #only(each, entry) {
    const again = entry.getAttribute("aria-pressed") === "true";
    this.search.value = "";
    this.#unpress();
    if (!again) {
      entry.setAttribute("aria-pressed", "true");
      const codes = each.column === "name" ? this.events.names : this.events.categories;
      const table = new Uint8Array(codes.length);
      table[each.code] = 1;
      this.#mark(each.column, table);
    } else this.#mark("name", null);
  }

  #unpress() {
    for (const each of this.legend.children) each.setAttribute("aria-pressed", "false");
  }

  #search() {
    this.#unpress();
    this.#mark("name", namesWith(this.events.names, this.search.value));
  }

  // The events that stand out: those that are searched for, else those of the chosen name.
  #mark(column, table) {
    this.hits = table ? this.events.rowsOf(column, table) : null;
    this.#count();
    if (!this.hits) this.#stress();
    this.later();
  }

  #stress() {
    if (!this.events) return;
    const code = this.named ? this.events.names.indexOf(this.named) : -1;
    this.same = null;
    this.sameCode = code; // drawn once more on top, with its words
    if (code >= 0) {
      const table = new Uint8Array(this.events.names.length);
      table[code] = 1;
      this.same = this.events.rowsOf("name", table);
    }
    this.#count();
    this.later();
  }

  #count() {
    const rows = (this.hits ?? this.same)?.rows;
    this.found.textContent = !rows ? "" : !rows.length ? "no match"
      : `${counted(rows.length, "match", "matches")}${this.hits ? "" : ` of ${this.named}`}`;
    this.before.disabled = this.after.disabled = !rows?.length;
  }

  #step(forward) {
    const rows = (this.hits ?? this.same)?.rows;
    if (!rows?.length) return;
    const next = this.events.nextOf(rows, this.row, forward);
    if (next >= 0) this.#choose(next, { seek: true, tell: false });
  }

  // ---- where things stand ------------------------------------------------------------------

  #resize() {
    const width = this.stage.clientWidth;
    if (!width || !this.height) return;
    this.ratio = Math.max(1, window.devicePixelRatio || 1);
    this.width = width;
    this.gutter = Math.round(Math.min(210, Math.max(120, width * 0.17)));
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.canvas.style.height = `${this.height}px`;
    this.top = MAP + RULER;
    this.plotWidth = Math.max(10, Math.floor((width - this.gutter) * this.ratio));
    this.plotHeight = Math.max(10, Math.floor((this.height - this.top) * this.ratio));
    this.image = this.context.createImageData(this.plotWidth, this.plotHeight);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.map = null;
    this.#arrange();
    this.later();
  }

  #arrange() {
    if (!this.events) return;
    this.places = [];
    let y = 0;
    let process = null;
    for (const track of this.events.tracks) {
      if (track.process !== process) {
        process = track.process;
        this.places.push({ y, height: HEAD, process });
        y += HEAD;
      }
      const lanes = this.folded.has(track.index) ? track.lanes.slice(0, 1) : track.lanes;
      this.places.push({ y, height: lanes.length * LANE + FOOT, track, lanes });
      y += lanes.length * LANE + FOOT;
    }
    this.content = y;
    this.scroll = Math.max(0, Math.min(this.scroll, y - (this.height - this.top)));
  }

  get scale() {
    return this.plotWidth / (this.to - this.from);
  }

  timeAt(x) {
    return this.from + ((x - this.gutter) * this.ratio) / this.scale;
  }

  xOf(time) {
    return this.gutter + ((time - this.from) * this.scale) / this.ratio;
  }

  #show(from, to) {
    if (!this.events) return;
    const { span } = this.events;
    const least = Math.min(span, 20);
    const wide = Math.max(least, Math.min(span * 1.02, to - from));
    const middle = (from + to) / 2;
    const margin = span * 0.01;
    this.from = Math.max(-margin, Math.min(middle - wide / 2, span + margin - wide));
    this.to = this.from + wide;
    this.later();
  }

  #zoom(factor, x = this.gutter + (this.width - this.gutter) / 2) {
    if (!this.events) return;
    const at = this.timeAt(x);
    const share = (at - this.from) / (this.to - this.from);
    const wide = Math.max(Math.min(20, this.events.span), (this.to - this.from) * factor);
    this.#show(at - share * wide, at - share * wide + wide);
  }

  #move(part) {
    if (!this.events) return;
    const wide = (this.to - this.from) * part;
    this.#show(this.from + wide, this.to + wide);
  }

  #scrollBy(y) {
    const most = Math.max(0, this.content - (this.height - this.top));
    const next = Math.max(0, Math.min(most, this.scroll + y));
    const moved = next !== this.scroll;
    this.scroll = next;
    if (moved) this.later();
    return moved;
  }

  #placeOf(row) {
    const lane = this.events.laneOf(row);
    const place = this.places.find((each) => each.track?.index === lane.track);
    if (!place) return null;
    const depth = Math.min(lane.depth, place.lanes.length - 1);
    return { y: this.top + place.y + depth * LANE - this.scroll, lane };
  }

  // What lies under a point: the place, and the event where there is one.
  #under(x, y) {
    if (!this.events || y < this.top || x < this.gutter) return { row: -1 };
    const at = y - this.top + this.scroll;
    const place = this.places.find((each) => at >= each.y && at < each.y + each.height);
    const lane = place?.lanes?.[Math.floor((at - place.y) / LANE)];
    if (!lane) return { row: -1, place };
    const time = this.timeAt(x);
    const row = this.events.near(lane, time, (2 * this.ratio) / this.scale);
    return { row, place, lane };
  }

  // ---- drawing -----------------------------------------------------------------------------

  later() {
    if (this.due || this.gone) return;
    this.due = true;
    requestAnimationFrame((now) => {
      this.due = false;
      if (this.gone || !this.events || !this.pixels) return;
      if (this.lastFrame && now - this.lastFrame < 250) this.#note(this.gaps, now - this.lastFrame);
      this.lastFrame = now;
      this.#draw();
    });
  }

  #note(kept, value) {
    kept.push(value);
    if (kept.length > KEPT_FRAMES) kept.shift();
  }

  #draw() {
    if (!this.pixels || !this.places) return;
    const began = performance.now();
    const marked = this.hits ?? this.same;
    this.pixels.fill(packed(this.theme.background));
    this.labels = [];
    for (const place of this.places) {
      const y = (place.y - this.scroll) * this.ratio;
      if (!place.track || y > this.plotHeight || y + place.height * this.ratio < 0) continue;
      place.lanes.forEach((lane, depth) => {
        const from = Math.round(y + depth * LANE * this.ratio);
        const to = Math.round(y + ((depth + 1) * LANE - 1) * this.ratio);
        if (to <= 0 || from >= this.plotHeight) return;
        this.#lane(lane, Math.max(0, from), Math.min(this.plotHeight, to), place.y + depth * LANE, marked);
      });
    }
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.putImageData(this.image, Math.round(this.gutter * this.ratio), Math.round(this.top * this.ratio));
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.#words();
    this.#names();
    this.#marks();
    this.#ruler();
    this.#minimap();
    this.#note(this.frames, performance.now() - began);
  }

  // One lane: a line of pixels, then copied to the height of the lane.
  #lane(lane, top, bottom, labelY, marked) {
    const { plotWidth } = this;
    const base = top * plotWidth;
    const [fills, inks] = !marked ? [this.full, this.inks]
      : marked === this.hits ? [this.dim, null] : [this.soft, this.softInks];
    this.#rows(null, lane.first, lane.last, base, fills, inks, labelY);
    if (marked) {
      const index = this.events.lanes.indexOf(lane);
      const [first, last] = [marked.bounds[index], marked.bounds[index + 1]];
      if (last > first) this.#rows(marked.rows, first, last, base, this.full, this.inks, labelY);
    }
    for (let y = top + 1; y < bottom; y++) {
      this.pixels.copyWithin(y * plotWidth, base, base + plotWidth);
    }
  }

  // Events in the order of their starts onto one line. What is narrower than a pixel is merged:
  // its colour is that of the longest of a few, as strong as the pixel is covered.
  #rows(rows, first, last, base, fills, inks, labelY) {
    const { pixels, plotWidth, from, to, scale } = this;
    const { start, duration, sums, name } = this.events;
    const isMarked = rows !== null;
    const startOf = isMarked ? (place) => start[rows[place]] : (place) => start[place];
    const wanted = 30 * this.ratio;
    let place = this.#firstAt(rows, first, last, from);
    while (place < last) {
      const row = isMarked ? rows[place] : place;
      const begins = start[row];
      if (begins >= to) break;
      const x = (begins - from) * scale;
      const wide = duration[row] * scale;
      if (wide >= 1) {
        const left = x > 0 ? Math.floor(x) : 0;
        let right = Math.min(plotWidth, Math.floor(x + wide));
        if (right <= left) right = Math.min(plotWidth, left + 1);
        // A line of background keeps neighbours apart.
        const edge = right - left >= 3 && right < plotWidth ? right - 1 : right;
        pixels.fill(fills[name[row]], base + left, base + edge);
        const isTwice = !isMarked && name[row] === this.sameCode;
        if (inks && !isTwice && right - left > wanted && this.labels.length < 5 * MOST_LABELS) {
          this.labels.push(row, left / this.ratio, right / this.ratio, labelY, inks[name[row]]);
        }
        place++;
        continue;
      }
      const pixel = x > 0 ? Math.floor(x) : 0;
      let next = this.#gallop(startOf, place + 1, last, from + (pixel + 1) / scale);
      // The last one that begins in this pixel may reach beyond it.
      if (next - 1 > place && duration[isMarked ? rows[next - 1] : next - 1] * scale >= 1) next--;
      let best = row;
      const stride = Math.max(1, (next - place) >> 3);
      for (let each = place + stride; each < next; each += stride) {
        const other = isMarked ? rows[each] : each;
        if (duration[other] > duration[best]) best = other;
      }
      const covered = isMarked ? 1 : Math.min(1, (sums[next] - sums[place]) * scale);
      if (pixel < plotWidth) {
        pixels[base + pixel] = this.#blended(fills[name[best]], pixels[base + pixel], 0.3 + 0.7 * covered);
        if (isMarked && pixel + 1 < plotWidth) pixels[base + pixel + 1] = fills[name[best]];
      }
      place = next;
    }
  }

  // The first event that ends after a time.
  #firstAt(rows, first, last, time) {
    const { start, duration } = this.events;
    let [low, high] = [first, last];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (start[rows ? rows[middle] : middle] < time) low = middle + 1;
      else high = middle;
    }
    if (low > first) {
      const row = rows ? rows[low - 1] : low - 1;
      if (start[row] + duration[row] > time) return low - 1;
    }
    return low;
  }

  // The first place from `first` on that starts at or after a time, by steps that double.
  #gallop(startOf, first, last, time) {
    let step = 1;
    let low = first;
    let high = first;
    while (high < last && startOf(high) < time) {
      low = high + 1;
      high += step;
      step *= 2;
    }
    if (high > last) high = last;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (startOf(middle) < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #blended(top, under, share) {
    const part = (share * 256) | 0;
    const rest = 256 - part;
    const evens = (((top & 0xff00ff) * part + (under & 0xff00ff) * rest) >>> 8) & 0xff00ff;
    const odds = ((((top >>> 8) & 0xff) * part + ((under >>> 8) & 0xff) * rest) >>> 8) << 8;
    return (0xff000000 | evens | odds) >>> 0;
  }

  #words() {
    const { context, labels, events } = this;
    context.save();
    context.beginPath();
    context.rect(this.gutter, this.top, this.width - this.gutter, this.height - this.top);
    context.clip();
    context.font = `11px ${this.theme.font}`;
    context.textBaseline = "middle";
    this.cutter ??= new Cutter(context);
    let ink = null;
    for (let at = 0; at < labels.length; at += 5) {
      const [row, left, right, y] = [labels[at], labels[at + 1], labels[at + 2], labels[at + 3]];
      const text = this.cutter.cut(events.nameOf(row), right - left - 9);
      if (!text) continue;
      const wanted = labels[at + 4];
      if (wanted !== ink) context.fillStyle = ink = wanted;
      context.fillText(text, this.gutter + left + 4, this.top + y - this.scroll + LANE / 2);
    }
    context.restore();
  }

  // The range, the chosen event, the one under the pointer, and what links them to devices.
  #marks() {
    const { context, theme } = this;
    context.save();
    context.beginPath();
    context.rect(this.gutter, this.top, this.width - this.gutter, this.height - this.top);
    context.clip();
    if (this.range) {
      const [left, right] = [this.xOf(this.range[0]), this.xOf(this.range[1])];
      context.fillStyle = css(theme.primary, 0.13);
      context.fillRect(left, this.top, right - left, this.height);
      context.strokeStyle = css(theme.primary, 0.9);
      context.lineWidth = 1;
      context.strokeRect(left + 0.5, this.top - 1, right - left - 1, this.height);
    }
    if (this.hover >= 0 && this.hover !== this.row) this.#outline(this.hover, css(theme.text, 0.75), 1);
    if (this.row >= 0) this.#outline(this.row, css(theme.text), 2);
    const linked = this.hover >= 0 && this.events.launcherOf(this.hover) >= 0 ? this.hover : this.row;
    if (linked >= 0) this.#arrows(linked);
    context.restore();
  }

  #outline(row, colour, thick) {
    const place = this.#placeOf(row);
    if (!place) return;
    const left = Math.max(this.gutter - 4, this.xOf(this.events.start[row]));
    const right = Math.min(this.width + 4, this.xOf(this.events.end(row)));
    this.context.strokeStyle = colour;
    this.context.lineWidth = thick;
    this.context.strokeRect(left, place.y + 0.5, Math.max(2, right - left - 1), LANE - 2);
  }

  #arrows(row) {
    const by = this.events.launcherOf(row);
    if (by >= 0) {
      this.#arrow(by, row);
      return;
    }
    if (row !== this.row || !this.links) return;
    for (const each of this.links.rows) this.#arrow(this.events.launcherOf(each), each);
  }

  #arrow(from, to) {
    const [one, other] = [this.#placeOf(from), this.#placeOf(to)];
    if (!one || !other) return;
    const { context } = this;
    const [x0, y0] = [this.xOf(this.events.start[from]), one.y + LANE - 2];
    const [x1, y1] = [this.xOf(this.events.start[to]), other.y];
    const bend = Math.max(18, Math.abs(x1 - x0) * 0.3);
    context.strokeStyle = context.fillStyle = css(this.theme.text, 0.8);
    context.lineWidth = 1.2;
    context.beginPath();
    context.moveTo(x0, y0);
    context.bezierCurveTo(x0 + bend * 0.2, y0 + bend, x1 - bend * 0.2, y1 - bend, x1, y1 - 1);
    context.stroke();
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x1 - 3.5, y1 - 7);
    context.lineTo(x1 + 3.5, y1 - 7);
    context.fill();
  }

  #names() {
    const { context, theme } = this;
    context.save();
    context.beginPath();
    context.rect(0, this.top, this.width, this.height - this.top);
    context.clip();
    context.fillStyle = css(theme.background);
    context.fillRect(0, this.top, this.gutter, this.height);
    for (const place of this.places) {
      const y = this.top + place.y - this.scroll;
      if (y > this.height || y + place.height < this.top) continue;
      if (place.process !== undefined) this.#heading(place.process, y);
      else this.#trackName(place, y);
    }
    context.strokeStyle = css(theme.border);
    context.lineWidth = 1;
    context.strokeRect(this.gutter - 0.5, this.top - 1, 0, this.height);
    const shown = this.height - this.top;
    if (this.content > shown) {
      const high = Math.max(24, (shown * shown) / this.content);
      const at = this.top + ((shown - high) * this.scroll) / (this.content - shown);
      context.fillStyle = css(theme.muted, 0.5);
      context.fillRect(this.width - 6, at, 4, high);
    }
    context.restore();
  }

  #heading(words, y) {
    const { context, theme } = this;
    context.fillStyle = css(theme.second);
    context.fillRect(0, y, this.width, HEAD - 3);
    context.fillStyle = css(theme.text);
    context.font = `600 11.5px ${theme.font}`;
    context.textBaseline = "middle";
    context.fillText(words, 9, y + (HEAD - 3) / 2 + 0.5);
  }

  #trackName(place, y) {
    const { context, theme } = this;
    const { track } = place;
    context.font = `11.5px ${theme.font}`;
    context.textBaseline = "middle";
    context.fillStyle = css(theme.text);
    const sign = track.lanes.length > 1 ? (this.folded.has(track.index) ? "▸ " : "▾ ") : "   ";
    // The name stays in sight while the track is.
    const low = y + place.height - LANE;
    const at = Math.max(y, Math.min(this.top, low)) + LANE / 2;
    this.gutterCutter ??= new Cutter(context);
    context.fillText(this.gutterCutter.cut(`${sign}${track.thread}`, this.gutter - 16), 8, at);
    context.fillStyle = css(theme.border);
    context.fillRect(0, y + place.height - FOOT / 2, this.width, 0.5);
  }

  #ruler() {
    const { context, theme } = this;
    const top = MAP;
    context.fillStyle = css(theme.background);
    context.fillRect(0, top, this.width, RULER);
    const { unit } = this.events;
    const wide = (this.to - this.from) * unit;
    const about = wide / Math.max(2, Math.floor((this.width - this.gutter) / 110));
    const power = 10 ** Math.floor(Math.log10(about));
    const step = power * ([1, 2, 5, 10].find((each) => each * power >= about) ?? 10);
    context.font = `11px ${theme.font}`;
    context.textBaseline = "middle";
    const first = Math.ceil((this.from * unit) / step);
    for (let index = first; index * step <= this.to * unit; index++) {
      const x = Math.round(this.xOf((index * step) / unit)) + 0.5;
      if (x < this.gutter) continue;
      context.fillStyle = css(theme.text, 0.09);
      context.fillRect(x - 0.5, this.top, 1, this.height);
      context.fillStyle = css(theme.muted);
      context.fillRect(x - 0.5, top + RULER - 6, 1, 6);
      context.fillText(this.#stamp(index * step, step), x + 4, top + RULER / 2 - 2);
    }
    context.fillStyle = css(theme.muted);
    context.fillText(`${timeText(wide)} shown`, 9, top + RULER / 2 - 1);
    context.fillStyle = css(theme.border);
    context.fillRect(0, top + RULER - 1, this.width, 1);
    if (this.range) {
      const [left, right] = [this.xOf(this.range[0]), this.xOf(this.range[1])];
      const words = timeText((this.range[1] - this.range[0]) * unit);
      const long = context.measureText(words).width + 12;
      const at = Math.max(this.gutter, Math.min(this.width - long, (left + right - long) / 2));
      context.fillStyle = css(theme.primary);
      context.fillRect(Math.max(this.gutter, left), top + RULER - 4, Math.max(1, right - Math.max(this.gutter, left)), 4);
      context.beginPath();
      context.roundRect(at, top + 1, long, RULER - 6, 5);
      context.fill();
      context.fillStyle = inkOn(theme.primary);
      context.fillText(words, at + 6, top + RULER / 2 - 2);
    }
  }

  // A stamp with as many digits as tell one tick from the next.
  #stamp(ns, step) {
    const [size, word] = step >= 1e8 ? [1e9, "s"] : step >= 1e5 ? [1e6, "ms"] : step >= 100 ? [1e3, "µs"] : [1, "ns"];
    const places = Math.max(0, Math.ceil(Math.log10(size / step)));
    return `${(ns / size).toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places })} ${word}`;
  }

  #minimap() {
    const { context, theme } = this;
    const columns = Math.max(10, Math.floor(this.width - this.gutter));
    this.map ??= this.#mapImage(columns);
    context.fillStyle = css(theme.second);
    context.fillRect(0, 0, this.width, MAP);
    context.drawImage(this.map, this.gutter, 3, columns, MAP - 6);
    context.fillStyle = css(theme.muted);
    context.font = `11px ${theme.font}`;
    context.textBaseline = "middle";
    const sides = this.mapSides;
    sides.forEach((words, index) => context.fillText(words, 9, 3 + ((MAP - 6) * (index + 0.5)) / sides.length));
    const at = (time) => this.gutter + (time / this.events.span) * columns;
    const [left, right] = [at(this.from), Math.max(at(this.to), at(this.from) + 2)];
    context.fillStyle = css(theme.background, 0.66);
    context.fillRect(this.gutter, 0, Math.max(0, left - this.gutter), MAP);
    context.fillRect(right, 0, Math.max(0, this.width - right), MAP);
    context.strokeStyle = css(theme.primary);
    context.lineWidth = 1.5;
    context.strokeRect(Math.max(this.gutter, left) + 0.5, 0.75, Math.min(this.width, right) - Math.max(this.gutter, left) - 1, MAP - 1.5);
  }

  // How busy the host's threads and the devices are over the whole trace.
  #mapImage(columns) {
    const sides = [["host", (track) => track.device < 0], ["devices", (track) => track.device >= 0]]
      .map(([words, belongs]) => [words, this.events.tracks.filter(belongs)])
      .filter(([, tracks]) => tracks.length);
    this.mapSides = sides.map(([words]) => words);
    const image = make("canvas", { width: columns, height: MAP - 6 });
    const context = image.getContext("2d");
    const high = (MAP - 6) / sides.length;
    sides.forEach(([words, tracks], index) => {
      const busy = tracks.map((track) => this.events.busy(track.lanes[0], columns));
      context.fillStyle = css(this.theme.fills[words === "host" ? 0 : 1]);
      for (let x = 0; x < columns; x++) {
        const most = Math.min(1, busy.reduce((found, each) => Math.max(found, each[x]), 0));
        const size = most * (high - 3);
        context.fillRect(x, (index + 1) * high - size - 1, 1, size);
      }
    });
    return image;
  }

  // ---- what the person does ----------------------------------------------------------------

  #listen() {
    const { stage } = this;
    const point = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.left - 1, event.clientY - box.top - 1];
    };
    stage.addEventListener("wheel", (event) => this.#wheel(event, ...point(event)), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#press(event, ...point(event)));
    stage.addEventListener("pointermove", (event) => this.#drag(event, ...point(event)));
    stage.addEventListener("pointerup", (event) => this.#release(event, ...point(event)));
    stage.addEventListener("pointercancel", () => { this.press = null; });
    stage.addEventListener("pointerleave", () => this.#hoverOver(-1));
    stage.addEventListener("dblclick", (event) => this.#double(...point(event)));
    this.body.addEventListener("keydown", (event) => this.#key(event));
    this.body.addEventListener("keyup", (event) => this.held.delete(event.key.toLowerCase()));
    this.body.addEventListener("focusout", () => this.held.clear());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.#step(!event.shiftKey);
      if (event.key === "Escape") {
        this.search.value = "";
        this.#search();
        stage.focus();
      }
      event.stopPropagation();
    });
    this.observer = new ResizeObserver(() => {
      if (stage.clientWidth && stage.clientWidth !== this.width) this.#resize();
    });
    this.observer.observe(stage);
  }

  #wheel(event, x, y) {
    const scale = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
    const [across, down] = [event.deltaX * scale, event.deltaY * scale];
    // A page that scrolls must not be caught by a picture that it passes.
    const isMeant = this.root.getRootNode().activeElement === this.stage || event.ctrlKey || event.metaKey;
    if (!isMeant || !this.events) {
      this.#remind();
      return;
    }
    if (x < this.gutter && y > this.top) {
      if (this.#scrollBy(down)) event.preventDefault();
      return;
    }
    event.preventDefault();
    if (event.shiftKey) this.#move((across || down) / 600);
    else if (Math.abs(across) > Math.abs(down)) this.#move(across / 600);
    else this.#zoom(Math.exp(Math.max(-300, Math.min(300, down)) * 0.0022), Math.max(x, this.gutter));
  }

  #remind() {
    this.hint.classList.add("on");
    clearTimeout(this.reminding);
    this.reminding = setTimeout(() => this.hint.classList.remove("on"), 1400);
  }

  #press(event, x, y) {
    if (event.button !== 0 || !this.events) return;
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    const kind = y < MAP ? "map" : x < this.gutter ? "names"
      : y < this.top || event.shiftKey ? "range" : "move";
    this.press = { kind, x, y, from: this.from, to: this.to, scroll: this.scroll, moved: false };
    if (kind === "map") this.#toMap(x);
  }

  #toMap(x) {
    const wide = this.to - this.from;
    const middle = ((x - this.gutter) / (this.width - this.gutter)) * this.events.span;
    this.#show(middle - wide / 2, middle + wide / 2);
  }

  #drag(event, x, y) {
    const { press } = this;
    if (!press) {
      const found = this.#under(x, y);
      this.#hoverOver(found.row, x, y);
      this.stage.style.cursor = y < MAP ? "ew-resize" : x < this.gutter ? "pointer" : y < this.top ? "text"
        : found.row >= 0 ? "pointer" : "grab";
      return;
    }
    press.moved ||= Math.abs(x - press.x) + Math.abs(y - press.y) > 3;
    if (!press.moved) return;
    this.tip.hidden = true;
    if (press.kind === "map") this.#toMap(x);
    if (press.kind === "move") {
      this.stage.style.cursor = "grabbing";
      const wide = press.to - press.from;
      const by = ((press.x - x) * this.ratio * wide) / this.plotWidth;
      this.scroll = Math.max(0, Math.min(press.scroll + press.y - y, this.content - (this.height - this.top)));
      this.scroll = Math.max(0, this.scroll);
      this.#show(press.from + by, press.to + by);
    }
    if (press.kind === "names") {
      this.scroll = press.scroll;
      this.#scrollBy(press.y - y);
      this.later();
    }
    if (press.kind === "range") {
      const ends = [press.x, Math.max(this.gutter, x)].map((each) => this.timeAt(each));
      this.range = [Math.max(0, Math.min(...ends)), Math.min(this.events.span, Math.max(...ends))];
      this.later();
    }
  }

  #release(event, x, y) {
    const { press } = this;
    this.press = null;
    if (!press) return;
    if (press.kind === "range" && press.moved) {
      this.#tell();
      return;
    }
    if (press.moved || press.kind === "map") return;
    const found = this.#under(x, y);
    if (press.kind === "names") {
      const at = y - this.top + this.scroll;
      const place = this.places.find((each) => at >= each.y && at < each.y + each.height);
      if (place?.track) this.#fold(place.track.index);
      return;
    }
    if (found.row >= 0) this.#choose(found.row, { tell: true });
    else this.#let();
  }

  #fold(track) {
    if (this.folded.has(track)) this.folded.delete(track);
    else this.folded.add(track);
    this.#arrange();
    this.later();
  }

  #double(x, y) {
    const { row } = this.#under(x, y);
    if (row >= 0) this.#frame(row);
    else if (y > MAP) this.#show(0, this.events?.span ?? 1);
  }

  #frame(row) {
    const margin = Math.max(10, this.events.duration[row] * 0.12);
    this.#show(this.events.start[row] - margin, this.events.end(row) + margin);
  }

  #hoverOver(row, x, y) {
    if (row !== this.hover) {
      this.hover = row;
      if (row >= 0) this.#fillTip(row);
      this.later();
    }
    this.tip.hidden = row < 0;
    if (row >= 0) placeTip(this.tip, this.stage, x, y);
  }

  #key(event) {
    if (!this.events || event.ctrlKey || event.metaKey || event.altKey) return;
    const isControl = event.target.tagName === "SELECT" || (event.target.tagName === "BUTTON" && event.key === "Enter");
    if (isControl) return;
    const key = event.key.toLowerCase();
    if ("wasd".includes(key) && key.length === 1) {
      if (!this.held.size) this.#run();
      this.held.add(key);
    } else if (!this.#command(event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  #command(key, shift) {
    const { events, row } = this;
    const lane = row >= 0 ? events.laneOf(row) : null;
    const go = (next) => { if (next >= 0) this.#choose(next, { seek: true, tell: false }); };
    const acts = {
      ArrowLeft: () => (lane ? go(row > lane.first ? row - 1 : -1) : this.#move(-0.2)),
      ArrowRight: () => (lane ? go(row + 1 < lane.last ? row + 1 : -1) : this.#move(0.2)),
      ArrowUp: () => (lane ? go(events.parent(row)) : this.#scrollBy(-3 * LANE)),
      ArrowDown: () => {
        if (!lane) return this.#scrollBy(3 * LANE);
        const [first, last] = events.inside(row);
        return go(last > first ? first : -1);
      },
      PageUp: () => this.#scrollBy(-this.height / 2),
      PageDown: () => this.#scrollBy(this.height / 2),
      Enter: () => { if (row >= 0) this.#announce(row); },
      f: () => {
        if (this.range) this.#show(...this.range);
        else if (row >= 0) this.#frame(row);
      },
      0: () => this.#show(0, events.span),
      "/": () => this.search.focus(),
      n: () => this.#step(!shift),
      Escape: () => this.#let(true),
    };
    const act = acts[key.length === 1 ? key.toLowerCase() : key];
    act?.();
    return act !== undefined;
  }

  // Keys that are held move on with every frame.
  #run() {
    let before = performance.now();
    const move = (now) => {
      if (!this.held.size || this.gone) return;
      const part = Math.min(60, Math.max(8, now - before)) / 1000;
      before = now;
      const along = (this.held.has("d") ? 1 : 0) - (this.held.has("a") ? 1 : 0);
      const into = (this.held.has("s") ? 1 : 0) - (this.held.has("w") ? 1 : 0);
      if (along) this.#move(along * part * 0.9);
      if (into) this.#zoom(Math.exp(into * part * 2.4), this.hover >= 0 ? this.xOf(this.events.start[this.hover]) : undefined);
      requestAnimationFrame(move);
    };
    requestAnimationFrame(move);
  }

  // ---- the choice and what is told of it ---------------------------------------------------

  #choose(row, { seek = false, tell = false } = {}) {
    this.row = row;
    this.range = null;
    this.links = this.events.launched(row, MOST_ARROWS);
    if (seek) this.#seek(row);
    this.#tell();
    if (tell) this.#announce(row);
    this.later();
  }

  #announce(row) {
    this.named = this.events.nameOf(row);
    this.#stress();
    this.send(this.named);
  }

  #let(all = false) {
    this.row = -1;
    this.links = null;
    this.range = null;
    if (all) {
      this.search.value = "";
      this.#unpress();
      this.hits = null;
      if (this.named) this.send("");
      this.named = "";
      this.#stress();
    }
    this.#tell();
    this.later();
  }

  // Brings an event into sight, near enough to be seen.
  #seek(row) {
    const { start, duration } = this.events;
    const lane = this.events.laneOf(row);
    this.folded.delete(lane.track);
    this.#arrange();
    const place = this.#placeOf(row);
    if (place.y < this.top + LANE || place.y > this.height - 2 * LANE) {
      this.#scrollBy(place.y - (this.top + this.height) / 2);
    }
    const wide = this.to - this.from;
    const tooSmall = duration[row] * this.scale < 3;
    if (tooSmall) {
      const next = Math.max(20, Math.min(wide, (duration[row] + 1) * 60));
      this.#show(start[row] - next * 0.45, start[row] + next * 0.55);
    } else if (start[row] < this.from || start[row] > this.to) {
      this.#show(start[row] - wide * 0.3, start[row] + wide * 0.7);
    }
  }

  #facts(row) {
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
      ["launched by", by >= 0 ? `${events.nameOf(this.#operatorOf(by))}, ${timeText((events.start[row] - events.start[by]) * unit)} before` : ""],
    ];
  }

  // The operator around a call of the runtime.
  #operatorOf(row) {
    const kind = this.events.categories[this.events.category[row]];
    if (!kind.endsWith("runtime") && !kind.endsWith("driver")) return row;
    const above = this.events.parent(row);
    return above >= 0 ? above : row;
  }

  #fillTip(row) {
    const merged = this.events.duration[row] * this.scale < 1 ? "Several events share this pixel: zoom in." : null;
    this.tip.replaceChildren(make("b", {}, this.events.nameOf(row)), listed(this.#facts(row)));
    if (merged) this.tip.append(make("div", { className: "note" }, merged));
  }

  #tell() {
    if (!this.events) return;
    if (this.range) this.#tellRange();
    else if (this.row >= 0) this.#tellRow(this.row);
    else {
      this.detail.replaceChildren(make("span", { className: "note" },
        "Click an event for its time, its module and what it launched; it is chosen on the whole page. Shift + drag, or drag along the ruler, measures a range. ? lists the keys."));
    }
  }

  #tellRow(row) {
    const { events } = this;
    const { unit } = events;
    const code = events.name[row];
    const act = (words, title, done) => make("button", { type: "button", title, onclick: done }, words);
    const link = (each) => act(shortened(events.nameOf(each)), `Go to ${events.nameOf(each)}`, () => this.#choose(each, { seek: true }));
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
        act("Zoom to it (F)", "Show it as wide as the view", () => this.#frame(row)),
        act("Close", "Let go of the choice", () => this.#let(true))),
      make("div", { className: "columns" },
        listed(this.#facts(row).filter(([word]) => word !== "launched by")),
        listed([
          ["same name", all],
          ["called by", path.length ? callers : ""],
          ["launched by", by >= 0 ? make("span", { className: "path" }, link(this.#operatorOf(by)), ` ${timeText((events.start[row] - events.start[by]) * unit)} before it began`) : ""],
          ["launches", links.count ? make("span", {}, `${counted(links.count, "kernel or copy", "kernels and copies")}, ${timeText(links.total * unit)} on the device: `, kernels, links.count > 6 ? " …" : "") : ""],
        ])));
  }

  #tellRange() {
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
    const close = make("button", { type: "button", onclick: () => this.#let() }, "Close");
    const zoom = make("button", { type: "button", onclick: () => this.#show(from, to) }, "Zoom to it (F)");
    this.detail.replaceChildren(
      make("div", { className: "head" }, make("h6", {}, `${timeText((to - from) * unit)} from ${timeText(from * unit)} to ${timeText(to * unit)}`),
        make("span", { className: "space" }), zoom, close),
      make("div", { className: "columns" }, table("Host", sides[0]), table("Devices", sides[1])));
  }
}

export default mounted(Timeline);
