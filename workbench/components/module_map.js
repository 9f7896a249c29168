// Nested bars: a column for each level of modules, each as tall as its share of its parent.

const NS = "http://www.w3.org/2000/svg";

class ModuleMap {
  constructor(root, data) {
    this.root = root;
    this.url = data.url;
    this.top = "";
    this.told = null;
    this.pen = document.createElement("canvas").getContext("2d");
    this.pen.font = "600 12.5px sans-serif";
    this.cutter = new Cutter(this.pen);
    this.path = make("div", { className: "crumbs note" });
    this.svg = document.createElementNS(NS, "svg");
    this.svg.setAttribute("class", "graph map");
    this.svg.setAttribute("width", "100%");
    this.svg.setAttribute("height", "100%");
    this.tip = make("div", { className: "tip", hidden: true });
    this.stage = make("div", { className: "stage", tabIndex: 0 }, this.svg, this.tip);
    this.stage.setAttribute("role", "tree");
    this.stage.setAttribute("aria-label", "Map of the modules: arrows walk, Enter goes inside, Backspace goes out");
    this.legend = make("div", { className: "legend" });
    root.replaceChildren(this.path, this.stage, this.legend);
    this.stage.addEventListener("click", (event) => this.#click(event));
    this.stage.addEventListener("dblclick", (event) => this.#enter(event.target.closest?.(".cell-box")?.cell));
    this.stage.addEventListener("pointermove", (event) => this.#hover(event));
    this.stage.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    this.stage.addEventListener("keydown", (event) => this.#key(event));
    this.observer = new ResizeObserver(() => {
      if (this.stage.clientWidth && this.stage.clientWidth !== this.wide) this.#draw();
    });
    this.observer.observe(this.stage);
    onTheme(root, () => this.#draw());
  }

  remove() {
    this.observer.disconnect();
    this.root.replaceChildren();
  }

  update(data) {
    this.data = data;
    this.stage.style.height = `${data.height}px`;
    this.cells = new Map(data.cells.map((each) => [each.name, { ...each, children: [] }]));
    for (const each of this.cells.values()) if (each.name) this.cells.get(each.parent)?.children.push(each);
    if (!this.cells.has(this.top)) this.top = "";
    this.chosen = data.selected === "(model)" ? "" : data.selected || null;
    if (data.selected !== this.told) {
      this.told = data.selected;
      if (this.chosen && !this.#isShown(this.chosen)) this.top = "";
    }
    this.#draw();
  }

  #isShown(name) {
    return this.top === "" || name === this.top || name.startsWith(`${this.top}.`);
  }

  #draw() {
    this.wide = this.stage.clientWidth;
    if (!this.wide || !this.cells) return;
    this.theme = themeOf(this.root);
    this.names = [...new Set(this.data.cells.map((each) => each.dtype).filter(Boolean))].sort();
    const top = this.cells.get(this.top);
    const deep = (cell) => 1 + Math.max(0, ...cell.children.map(deep));
    const levels = Math.min(deep(top), 9);
    const first = Math.min(90, this.wide / levels);
    this.columns = { first, wide: (this.wide - 2 - first) / Math.max(1, levels - 1), levels };
    this.placed = [];
    const parts = [];
    this.#place(top, 0, 0, this.data.height - 2, parts);
    this.svg.replaceChildren(...parts);
    this.#words();
  }

  #place(cell, level, y, tall, parts) {
    const { first, wide, levels } = this.columns;
    const x = level === 0 ? 0 : first + (level - 1) * wide;
    parts.push(this.#cell(cell, x, y, level === 0 ? first : wide, tall));
    this.placed.push(cell);
    if (level + 1 >= levels || cell.value <= 0) return;
    let at = y;
    for (const each of cell.children) {
      const part = (each.value / cell.value) * tall;
      if (part >= 1.5) this.#place(each, level + 1, at, part, parts);
      at += part;
    }
  }

  #cell(cell, x, y, wide, tall) {
    const group = document.createElementNS(NS, "g");
    group.cell = cell;
    group.dataset.name = cell.name;
    group.setAttribute("class", `cell-box${cell.name === this.chosen ? " chosen" : ""}`);
    group.setAttribute("transform", `translate(${x.toFixed(1)},${y.toFixed(1)})`);
    const fill = this.data.coloured === "dtype"
      ? (cell.dtype ? dtypeFill(this.theme, cell.dtype, this.names) : this.theme.second)
      : cell.name ? amountFill(this.theme, cell.colour, this.data.most) : this.theme.second;
    const body = document.createElementNS(NS, "rect");
    body.setAttribute("class", "body");
    for (const [name, value] of [["x", 1], ["y", 0.5], ["width", Math.max(1, wide - 2)], ["height", Math.max(1, tall - 1)], ["rx", Math.min(5, tall / 4)], ["fill", css(fill)]]) {
      body.setAttribute(name, value);
    }
    group.append(body);
    if (tall > 16) {
      const ink = inkOn(fill);
      const label = cell.name ? cell.name.slice(cell.parent ? cell.parent.length + 1 : 0) : this.data.title;
      const add = (text, top, kind) => {
        const made = document.createElementNS(NS, "text");
        made.setAttribute("x", 8);
        made.setAttribute("y", top);
        made.setAttribute("fill", ink);
        made.setAttribute("class", kind);
        made.textContent = this.cutter.cut(text, wide - 16);
        group.append(made);
      };
      const middle = Math.min(tall / 2, 40);
      if (tall > 33) {
        add(label, middle - 2, "title");
        add(`${cell.text} · ${cell.type}`, middle + 12, "words");
      } else add(label, tall / 2 + 4, "title");
    }
    return group;
  }

  #words() {
    const parts = this.top ? this.top.split(".") : [];
    const crumbs = [["", this.data.title], ...parts.map((_, index) => [parts.slice(0, index + 1).join("."), parts[index]])]
      .filter(([name]) => this.cells.has(name));
    this.path.replaceChildren(...crumbs.flatMap(([name, label], index) => {
      const made = make("button", { type: "button", textContent: label, disabled: name === this.top });
      made.addEventListener("click", () => { this.top = name; this.#draw(); });
      return index ? [" › ", made] : [made];
    }));
    this.path.hidden = !this.top;
    this.legend.replaceChildren(...(this.data.coloured === "dtype" ? dtypeLegend(this.theme, this.names)
      : rampLegend(this.theme, this.data.coloured, this.data.mostText, " (the most of one module)")));
  }

  #choose(cell) {
    this.chosen = cell.name;
    this.told = cell.name || "(model)";
    this.send(this.told);
    this.#draw();
  }

  #enter(cell) {
    if (!cell) return;
    this.top = cell.name === this.top ? cell.parent : cell.children.length ? cell.name : cell.parent;
    this.#draw();
  }

  #click(event) {
    this.stage.focus({ preventScroll: true });
    const cell = event.target.closest?.(".cell-box")?.cell;
    if (cell && event.detail < 2) this.#choose(cell);
  }

  #hover(event) {
    const cell = event.target.closest?.(".cell-box")?.cell;
    if (!cell) {
      this.tip.hidden = true;
      return;
    }
    const place = this.stage.getBoundingClientRect();
    if (this.tip.cell !== cell || this.tip.hidden) {
      this.tip.cell = cell;
      this.tip.replaceChildren(make("b", {}, cell.name || this.data.title), listed([["type", cell.type], ["dtype", cell.dtype], ...cell.facts]));
    }
    placeTip(this.tip, this.stage, event.clientX - place.left, event.clientY - place.top);
  }

  #key(event) {
    const cell = this.cells.get(this.chosen ?? this.top) ?? this.cells.get(this.top);
    const mates = this.placed.filter((each) => each.parent === cell.parent && each.name);
    const beside = (by) => mates[mates.indexOf(cell) + by];
    const next = {
      ArrowDown: () => beside(1), ArrowUp: () => beside(-1), ArrowRight: () => cell.children.find((each) => this.placed.includes(each)),
      ArrowLeft: () => this.cells.get(cell.parent),
    }[event.key];
    if (event.key === "Enter") this.#enter(cell);
    else if (event.key === "Backspace") this.#enter(this.cells.get(this.top));
    else if (next) {
      const found = next();
      if (found && found !== cell) this.#choose(found);
    } else return;
    event.preventDefault();
  }
}

export default mounted(ModuleMap);
