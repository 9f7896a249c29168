// The flame graph: paths of calls as nested bars, the callers on top.

const ROW = 20;
const SIDES = { host: "Host time", device: "Device time" };

class Flame {
  constructor(root, data) {
    this.root = root;
    this.url = data.url;
    this.began = performance.now();
    this.frames = [];
    this.named = this.told = "";
    this.side = "host";
    this.isInverted = false;
    this.chosen = null;
    this.#build();
    this.#load();
  }

  remove() {
    this.gone = true;
    this.observer?.disconnect();
    this.root.replaceChildren();
  }

  update(data) {
    if (data.height !== this.height) {
      this.height = data.height;
      this.stage.style.height = `${data.height}px`;
      this.#resize();
    }
    if (data.selected === this.told) return;
    this.told = data.selected;
    if (data.selected === this.named) return;
    this.named = data.selected;
    this.#mark();
  }

  #build() {
    this.search = make("input", { type: "search", placeholder: "Search frames", oninput: () => this.#mark() });
    this.search.setAttribute("aria-label", "Search frames by name");
    this.search.addEventListener("keydown", (event) => event.stopPropagation());
    this.found = make("span", { className: "note" });
    this.found.setAttribute("aria-live", "polite");
    this.sides = make("span", { className: "group" });
    this.invert = make("button", {
      type: "button", title: "Which names spend the time, and who called them", onclick: () => this.#turn(),
    }, "Bottom up");
    this.invert.setAttribute("aria-pressed", "false");
    this.reset = make("button", { type: "button", title: "Show all frames", onclick: () => this.#enter(null) }, "Reset");
    this.colours = make("select", { onchange: () => this.#paint() },
      make("option", { value: "name" }, "Colour: name"), make("option", { value: "kind" }, "Colour: kind"));
    this.colours.setAttribute("aria-label", "Colour of frames");
    this.about = make("span", { className: "note" });
    this.canvas = make("canvas");
    this.tip = make("div", { className: "tip", hidden: true });
    this.wait = make("div", { className: "wait" }, "Fetching the calls…");
    this.stage = make("div", { className: "stage scrolled", tabIndex: 0 }, this.canvas, this.tip, this.wait);
    this.stage.setAttribute("role", "application");
    this.stage.setAttribute("aria-label", "Flame graph: arrows walk from frame to frame, Enter zooms into one, Escape shows all");
    this.stage.flame = this;
    this.detail = make("div", { className: "detail" });
    this.detail.setAttribute("aria-live", "polite");
    this.root.replaceChildren(
      make("div", { className: "bar" }, this.sides, this.search, this.found, make("span", { className: "space" }),
        this.about, this.colours, this.invert, this.reset),
      this.stage, this.detail);
    this.context = this.canvas.getContext("2d", { alpha: false });
    const at = (event) => {
      const box = this.stage.getBoundingClientRect();
      return [event.clientX - box.left - 1, event.clientY - box.top - 1 + this.stage.scrollTop];
    };
    this.stage.addEventListener("pointermove", (event) => this.#hoverOver(...at(event)));
    this.stage.addEventListener("pointerleave", () => this.#hoverOver(-1, -1));
    this.stage.addEventListener("click", (event) => this.#click(...at(event)));
    this.stage.addEventListener("scroll", () => { this.tip.hidden = true; });
    this.stage.addEventListener("keydown", (event) => this.#key(event));
    this.observer = new ResizeObserver(() => {
      if (this.stage.clientWidth && this.stage.clientWidth !== this.width) this.#resize();
    });
    this.observer.observe(this.stage);
    onTheme(this.root, () => this.#paint());
  }

  async #load() {
    try {
      this.calls = new Calls(await (await fetched(this.url)).json());
    } catch (error) {
      this.wait.textContent = `The flame graph cannot be shown: ${error.message}. Read the trace again.`;
      return;
    }
    if (this.gone) return;
    this.wait.remove();
    for (const [side, words] of Object.entries(SIDES)) {
      const button = make("button", { type: "button", onclick: () => this.#to(side) }, words);
      button.dataset.side = side;
      button.disabled = !(side in this.calls.trees);
      if (button.disabled) button.title = "The trace holds nothing that ran on a device.";
      this.sides.append(button);
    }
    this.#to("host");
    this.#draw();
    this.stage.dataset.drawnMs = (performance.now() - this.began).toFixed(1);
  }

  // ---- what is shown -----------------------------------------------------------------------

  #to(side) {
    this.side = side;
    for (const each of this.sides.children) each.setAttribute("aria-pressed", String(each.dataset.side === side));
    this.#grow();
  }

  #turn() {
    this.isInverted = !this.isInverted;
    this.invert.setAttribute("aria-pressed", String(this.isInverted));
    this.#grow();
  }

  #grow() {
    this.tree = this.isInverted ? this.calls.inverted(this.side) : this.calls.trees[this.side];
    this.focus = this.tree.root;
    this.chosen = null;
    const { frames, folded } = this.tree;
    this.about.textContent = `${timeText(this.tree.root.total)} · ${counted(frames, "frame")}`
      + (folded ? `, ${folded.toLocaleString("en")} of them folded into “smaller frames”` : "");
    this.#paint();
    this.#resize();
    this.#mark();
    this.#tell();
  }

  #paint() {
    if (!this.tree) return;
    this.theme = themeOf(this.root);
    const byKind = this.colours.value === "kind";
    this.fills = this.calls.names.map((name, code) => (byKind
      ? kindFill(this.theme, this.calls.categories[this.calls.kindOf[code]] ?? "") : nameFill(this.theme, name)));
    this.later();
  }

  #mark() {
    if (!this.tree) return;
    const typed = namesWith(this.calls.names, this.search.value);
    this.marks = typed;
    // Inside the chosen frame nothing needs to stand out.
    const isInside = this.focus.name >= 0 && this.calls.names[this.focus.name] === this.named;
    if (!typed && this.named && !isInside) {
      this.marks = new Uint8Array(this.calls.names.length);
      const code = this.calls.names.indexOf(this.named);
      if (code >= 0) this.marks[code] = 1;
      else this.marks = null;
    }
    this.found.textContent = this.marks ? this.#matched() : "";
    this.later();
  }

  // How much of the time lies in frames that match, each instant counted once.
  #matched() {
    let [frames, time] = [0, 0];
    const waiting = this.tree.root.children.map((each) => [each, false]);
    while (waiting.length) {
      const [each, isInside] = waiting.pop();
      const hit = this.marks[each.name] === 1;
      if (hit) frames++;
      if (hit && !isInside) time += each.total;
      for (const child of each.children) waiting.push([child, isInside || hit]);
    }
    return frames ? `${counted(frames, "frame")}, ${timeText(time)}, ${shareText(time, this.tree.root.total)}` : "no match";
  }

  #resize() {
    const width = this.stage.clientWidth;
    if (!width || !this.height || !this.tree) return;
    this.ratio = Math.max(1, window.devicePixelRatio || 1);
    this.width = width;
    const high = Math.max(7 * ROW, (this.tree.deepest + 2) * ROW + 6);
    this.stage.style.height = `${Math.min(this.height, high + 2)}px`;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(high * this.ratio);
    this.canvas.style.height = `${high}px`;
    this.later();
  }

  // ---- drawing -----------------------------------------------------------------------------

  later() {
    if (this.due || this.gone) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      if (!this.gone) this.#draw();
    });
  }

  #draw() {
    if (!this.tree || !this.width) return;
    const began = performance.now();
    const { context, theme } = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = css(theme.background);
    context.fillRect(0, 0, this.width, this.canvas.height);
    context.font = `11.5px ${theme.font}`;
    context.textBaseline = "middle";
    this.cutter ??= new Cutter(context);
    this.boxes = [];
    const above = pathOf(this.focus);
    this.#bar(this.tree.root, 0, 0, this.width, true);
    above.forEach((each, index) => this.#bar(each, 0, index + 1, this.width, each !== this.focus));
    this.#children(this.focus, 0, this.width, above.length + 1);
    this.frames.push(performance.now() - began);
    if (this.frames.length > 600) this.frames.shift();
  }

  #children(frame, left, wide, row) {
    // Calls that overlap may take longer than their caller: then they share its width.
    const sum = frame.children.reduce((found, each) => found + each.total, 0);
    const unit = wide / Math.max(frame.total, sum, 1);
    let x = left;
    for (const each of frame.children) {
      const own = each.total * unit;
      if (own < 0.6) {
        // The rest is smaller still: one thin bar says that it is there.
        const rest = left + sum * unit - x;
        if (rest >= 0.6) {
          this.context.fillStyle = css(this.theme.border);
          this.context.fillRect(x, row * ROW + 2, rest, ROW - 3);
        }
        return;
      }
      this.#bar(each, x, row, own, false);
      this.#children(each, x, own, row + 1);
      x += own;
    }
  }

  #bar(frame, left, row, wide, isFaint) {
    const { context, theme } = this;
    const y = row * ROW + 2;
    const isHit = !this.marks || (frame.name >= 0 && this.marks[frame.name] === 1);
    let fill = frame.name < 0 || frame.folded ? mixed(theme.second, theme.border, 0.6) : this.fills[frame.name];
    if (!isHit || isFaint) fill = mixed(fill, theme.background, isHit ? 0.55 : 0.74);
    context.fillStyle = css(fill);
    context.fillRect(left, y, Math.max(0.6, wide - (wide > 3 ? 1 : 0)), ROW - 2);
    if (frame === this.chosen || frame === this.hovered) {
      context.strokeStyle = css(theme.text);
      context.lineWidth = frame === this.chosen ? 2 : 1;
      context.strokeRect(left + 0.75, y + 0.75, Math.max(1, wide - 2.5), ROW - 3.5);
    }
    if (wide > 26) {
      context.fillStyle = inkOn(fill);
      context.fillText(this.cutter.cut(this.#nameOf(frame), wide - 10), left + 5, y + ROW / 2 - 0.5);
    }
    this.boxes.push({ frame, left, right: left + wide, row });
  }

  #nameOf(frame) {
    if (frame.name < 0) return this.isInverted ? `${SIDES[this.side]}, by what spent it` : SIDES[this.side];
    if (frame.folded) return counted(frame.folded, "smaller frame");
    return this.calls.names[frame.name];
  }

  // ---- what the person does ----------------------------------------------------------------

  #under(x, y) {
    const row = Math.floor((y - 2) / ROW);
    return this.boxes?.find((each) => each.row === row && x >= each.left && x < each.right)?.frame ?? null;
  }

  #hoverOver(x, y) {
    const found = this.#under(x, y);
    if (found !== this.hovered) {
      this.hovered = found;
      this.stage.style.cursor = found ? "pointer" : "default";
      if (found) this.tip.replaceChildren(make("b", {}, this.#nameOf(found)), listed(this.#facts(found)));
      this.later();
    }
    this.tip.hidden = !found;
    if (found) placeTip(this.tip, this.stage, x, y);
  }

  #click(x, y) {
    this.stage.focus({ preventScroll: true });
    const found = this.#under(x, y);
    if (found) this.#enter(found);
  }

  #enter(frame) {
    if (!this.tree) return;
    const isRoot = !frame || frame.name < 0;
    this.focus = isRoot ? this.tree.root : frame;
    this.#choose(isRoot ? null : frame);
    const name = isRoot || frame.folded ? "" : this.calls.names[frame.name];
    if (name !== this.named) {
      this.named = name;
      this.send(name);
    }
    this.#mark();
    this.stage.scrollTop = 0;
  }

  #choose(frame) {
    this.chosen = frame;
    this.#tell();
    this.later();
  }

  #key(event) {
    if (!this.tree || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = this.chosen ?? this.focus;
    const beside = here.parent?.children ?? [];
    const at = beside.indexOf(here);
    const acts = {
      ArrowDown: () => here.children[0],
      ArrowUp: () => (here.parent?.parent ? here.parent : null),
      ArrowLeft: () => beside[at - 1],
      ArrowRight: () => beside[at + 1],
    };
    if (event.key in acts) {
      const next = acts[event.key]();
      if (next) this.#choose(next);
    } else if (event.key === "Enter") this.#enter(this.chosen);
    else if (event.key === "Escape") {
      this.search.value = "";
      this.#enter(null);
    } else if (event.key === "/") this.search.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #facts(frame) {
    const whole = this.tree.root.total;
    const isDevice = this.side === "device";
    const above = frame.parent && frame.parent.name >= 0 ? frame.parent : null;
    return [
      ["total", `${timeText(frame.total)}, ${shareText(frame.total, whole)} of all`],
      ["of its caller", above && !this.isInverted ? shareText(frame.total, above.total) : ""],
      ["self", this.isInverted || isDevice ? "" : `${timeText(frame.self)}, ${shareText(frame.self, whole)}`],
      [isDevice ? "kernels" : "calls", frame.name < 0 ? "" : frame.calls.toLocaleString("en")],
      ["mean", frame.calls && !this.isInverted && frame.name >= 0 ? timeText(frame.total / frame.calls) : ""],
    ];
  }

  #tell() {
    const frame = this.chosen;
    if (!frame) {
      this.detail.replaceChildren(make("span", { className: "note" }, this.isInverted
        ? "Bottom up: each name with the time that it spent itself; below it stand its callers. Click to zoom in."
        : "Callers stand above what they call; wide is long. Click a frame to zoom into it and to choose it on the whole page, Escape to leave."));
      return;
    }
    const path = make("span", { className: "path" });
    pathOf(frame).slice(0, -1).forEach((each, index) => path.append(index ? " › " : "",
      make("button", { type: "button", title: this.#nameOf(each), onclick: () => this.#enter(each) }, shortened(this.#nameOf(each)))));
    this.detail.replaceChildren(
      make("div", { className: "head" }, make("h6", {}, this.#nameOf(frame))),
      listed([...this.#facts(frame), [this.isInverted ? "callees" : "called by", path.childNodes.length ? path : ""]]));
  }
}

export default mounted(Flame);
