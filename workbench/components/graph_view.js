// The model graph: boxes that open, zoom and pan, search, one chosen box, keys.

const GRAPH_KEYS = [
  ["↑ ↓", "to what feeds it, to what it feeds"], ["→", "open, or go inside"], ["←", "close, or go outside"],
  ["Enter", "open or close"], ["+ −", "zoom"], ["F", "fit"], ["/", "search"], ["N, Shift + N", "next, previous match"],
  [", .", "previous and next of equal blocks"], ["double click", "open or close"], ["wheel", "zoom at the pointer"], ["drag", "move"],
];

class ModelGraph extends GraphPicture {
  constructor(root, data) {
    super(root, data);
    this.url = data.url;
    this.told = "";
    this.at = -1;
    this.boxes.openFirst();
    this.#build();
    this.#listen();
    this.draw();
    this.fit();
  }

  remove() {
    this.observer?.disconnect();
    this.root.replaceChildren();
  }

  // What Python says: the height, and the module that is chosen elsewhere.
  update(data) {
    this.stage.style.height = `${data.height}px`;
    if (data.selected === this.told) return;
    this.told = data.selected;
    if ((this.chosen?.name ?? "") === data.selected) return;
    const found = this.boxes.modules.find((each) => each.name === data.selected && each.count);
    this.choose(found ?? null, { quiet: true, centre: true });
  }

  #build() {
    const button = (text, title, pressed) => {
      const made = make("button", { type: "button", textContent: text, title });
      if (!/[a-z]/i.test(text)) made.setAttribute("aria-label", title);
      made.addEventListener("click", pressed);
      return made;
    };
    this.search = make("input", { type: "search", placeholder: "Search modules and operators" });
    this.search.setAttribute("aria-label", "Search modules and operators");
    this.found = make("span", { className: "note" });
    this.found.setAttribute("aria-live", "polite");
    this.colours = make("select", { title: "Colour by" }, ...this.measures.map(
      (each) => make("option", { value: each.id }, `Colour: ${each.label}`)));
    this.colours.setAttribute("aria-label", "Colour by");
    this.shaped = button("Shapes", "Show the shapes of tensors on the edges", () => this.#toggleShapes());
    this.shaped.setAttribute("aria-pressed", "false");
    this.help = button("?", "Keys", () => { this.keys.hidden = !this.keys.hidden; });
    this.tip = make("div", { className: "tip", hidden: true });
    this.hint = make("div", { className: "hint" }, "Click the graph, or hold Ctrl, to zoom with the wheel");
    this.map = make("canvas", { className: "overview", width: 300, height: 200, hidden: true });
    this.map.setAttribute("aria-hidden", "true");
    this.stage.append(this.map, this.tip, this.hint);
    this.stage.setAttribute("role", "application");
    this.stage.setAttribute("aria-label", "Graph of the model: arrows walk from box to box, Enter opens and closes");
    this.stage.graph = this;
    this.detail = make("div", { className: "detail" });
    this.detail.setAttribute("aria-live", "polite");
    this.keys = make("div", { className: "detail keys", hidden: true },
      ...GRAPH_KEYS.map(([key, words]) => make("span", {}, make("kbd", {}, key), ` ${words}`)));
    this.root.replaceChildren(
      make("div", { className: "bar" }, this.search, this.found, make("span", { className: "space" }), this.colours, this.shaped,
        make("span", { className: "group" },
          button("Open all", "Open every box", () => this.#all(true)), button("Close all", "Close every box", () => this.#all(false))),
        make("span", { className: "group" },
          button("−", "Zoom out", () => this.zoom(1 / 1.35)), button("+", "Zoom in", () => this.zoom(1.35)),
          button("Fit", "Show the whole graph", () => this.fit())),
        this.help),
      this.stage, this.legend, this.keys, this.detail);
    onTheme(this.root, () => this.draw());
  }

  #toggleShapes() {
    this.shapes = !this.shapes;
    this.shaped.setAttribute("aria-pressed", String(this.shapes));
    this.draw();
  }

  #all(open) {
    if (open) this.boxes.openAll();
    else this.boxes.closeAll();
    this.draw();
    this.fit();
  }

  toggle(box) {
    if (box.kind === "operator" || box.single || box === this.boxes.root) return;
    box.open = !box.open;
    this.draw(box);
    this.#settle(box);
  }

  turn(stack, at) {
    stack.at = (at + stack.members) % stack.members;
    stack.open = true;
    this.draw(stack);
    this.choose(stack.children[stack.at], { still: true });
  }

  draw(keep = null) {
    super.draw(keep);
    this.#tell();
  }

  move() {
    super.move();
    this.#overview();
    const { x, y, scale } = this.view;
    const far = this.drawn && (Math.abs(x - this.drawn.x) > this.stage.clientWidth / 3
      || Math.abs(y - this.drawn.y) > this.stage.clientHeight / 3 || Math.abs(Math.log(scale / this.drawn.scale)) > 0.3);
    if (far) {
      this.drawn = null;
      requestAnimationFrame(() => this.paint());
    }
  }

  zoom(by, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(2.5, Math.max(0.02, this.view.scale * by));
    const real = scale / this.view.scale;
    this.view = { x: x - (x - this.view.x) * real, y: y - (y - this.view.y) * real, scale };
    this.move();
  }

  fit() {
    const { width, height } = this.boxes.root;
    const [wide, tall] = [this.stage.clientWidth || 900, this.stage.clientHeight || 560];
    const scale = Math.min(1.1, (wide - 24) / width, (tall - 24) / height);
    this.view = { x: (wide - width * scale) / 2, y: Math.max(12, (tall - height * scale) / 2), scale };
    if (scale < 0.45) { // too small to read: the beginning, at a size that can be read
      const readable = Math.min(0.8, Math.max(scale, (wide - 24) / width));
      const shown = Math.max(0.45, readable);
      this.view = { x: (wide - width * shown) / 2, y: 12, scale: shown };
    }
    this.move();
  }

  // Chooses a box, or none; tells Python the module unless Python said it.
  choose(box, { quiet = false, centre = false, still = false } = {}) {
    this.chosen = box;
    if (box) this.boxes.reveal(box);
    const shown = box && this.boxes.shown(box);
    this.draw(shown);
    if (shown && !still) this.#settle(shown, centre);
    if (quiet) return;
    const name = box?.name ?? "";
    if (name !== this.told) {
      this.told = name;
      this.send(name);
    }
  }

  // Moves the view as little as makes a box visible.
  #settle(box, centre = false) {
    const [wide, tall] = [this.stage.clientWidth, this.stage.clientHeight];
    if (!wide) return;
    if (centre && this.view.scale < 0.5) this.view.scale = 0.8;
    const { scale } = this.view;
    const along = (start, size, place, room) => {
      const [first, last] = [start * scale + place, (start + size) * scale + place];
      if (centre) return place + room / 2 - (first + Math.min(last, first + room)) / 2;
      if (last - first > room - 32 || first < 16) return place + 16 - first;
      return last > room - 16 ? place + room - 16 - last : place;
    };
    this.view.x = along(box.x, box.width, this.view.x, wide);
    this.view.y = along(box.y, box.height, this.view.y, tall);
    if (this.drawn) this.paint();
    else this.move();
  }

  #tell() {
    const box = this.chosen;
    if (!box) {
      this.detail.replaceChildren(make("span", { className: "note" }, this.data.hint));
      return;
    }
    const facts = factsOf(box, this.data, this.boxes.root).filter(([, value]) => value);
    const half = Math.ceil(facts.length / 2);
    this.detail.replaceChildren(
      make("div", { className: "head" }, make("h6", {}, titleOf(box)), make("span", { className: "note" }, box.isBundle ? "operators between module calls" : box.kind === "operator" ? "operator" : "module")),
      make("div", { className: "columns" }, listed(facts.slice(0, half)), listed(facts.slice(half))));
  }

  #find() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const said = (box) => `${box.name} ${box.label} ${box.type} ${box.operator ?? ""} ${box.shape ?? ""} ${box.dtype ?? ""}`.toLowerCase();
    this.matches = words.length ? this.boxes.all.filter((box) => box.kind !== "stack" && box.parent
      && !(box.kind === "operator" && box.parent.single) && words.every((word) => said(box).includes(word))) : [];
    this.matches.sort((first, second) => first.first - second.first);
    this.at = -1;
    this.found.textContent = !words.length ? "" : this.matches.length ? counted(this.matches.length, "match", "matches") : "nothing found";
    this.paint();
  }

  #step(by) {
    if (!this.matches.length) return;
    this.at = (this.at + by + this.matches.length) % this.matches.length;
    this.choose(this.matches[this.at], { centre: true });
    this.found.textContent = `${(this.at + 1).toLocaleString("en")} of ${counted(this.matches.length, "match", "matches")}`;
  }

  // The whole graph in a corner, with what is looked at.
  #overview() {
    const { width, height } = this.boxes.root;
    const [wide, tall] = [this.stage.clientWidth, this.stage.clientHeight];
    const { x, y, scale } = this.view;
    this.map.hidden = !wide || (width * scale <= wide + 4 && height * scale <= tall + 4);
    if (this.map.hidden) return;
    const pen = this.map.getContext("2d");
    const by = Math.min((this.map.width - 8) / width, (this.map.height - 8) / height);
    const [left, top] = [(this.map.width - width * by) / 2, (this.map.height - height * by) / 2];
    this.mapped = { by, left, top };
    pen.clearRect(0, 0, this.map.width, this.map.height);
    for (const box of this.picture.boxes) {
      const open = this.boxes.isOpen(box);
      pen.fillStyle = open ? css(this.theme.text, 0.06) : css(this.theme.primary, 0.45);
      pen.fillRect(left + box.x * by, top + box.y * by, Math.max(1, box.width * by), Math.max(1, box.height * by));
    }
    pen.strokeStyle = css(this.theme.primary);
    pen.lineWidth = 2;
    pen.strokeRect(left - (x / scale) * by, top - (y / scale) * by, (wide / scale) * by, (tall / scale) * by);
  }

  #listen() {
    const { stage } = this;
    const point = (event) => {
      const place = stage.getBoundingClientRect();
      return [event.clientX - place.left, event.clientY - place.top];
    };
    this.search.addEventListener("input", () => this.#find());
    this.search.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.#step(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") {
        this.search.value = "";
        this.#find();
        stage.focus();
      }
    });
    this.colours.addEventListener("change", () => {
      this.measure = this.measures.find((each) => each.id === this.colours.value);
      this.draw();
    });
    stage.addEventListener("wheel", (event) => this.#wheel(event, ...point(event)), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#press(event, ...point(event)));
    stage.addEventListener("pointermove", (event) => this.#drag(event, ...point(event)));
    stage.addEventListener("pointerup", (event) => this.#release(event));
    stage.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    stage.addEventListener("dblclick", (event) => {
      const box = event.target.closest?.(".box")?.box;
      if (box && !event.target.closest(".toggle, .turn, .cell")) this.toggle(box);
    });
    stage.addEventListener("keydown", (event) => this.#key(event));
    this.observer = new ResizeObserver(() => {
      if (stage.clientWidth && stage.clientWidth !== this.wide) {
        if (!this.wide) this.fit();
        this.wide = stage.clientWidth;
        this.move();
      }
    });
    this.observer.observe(stage);
  }

  #wheel(event, x, y) {
    if (!event.ctrlKey && !event.metaKey && this.root.getRootNode().activeElement !== this.stage) {
      this.hint.classList.add("on");
      clearTimeout(this.hinting);
      this.hinting = setTimeout(() => this.hint.classList.remove("on"), 1400);
      return;
    }
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), x, y);
  }

  #press(event, x, y) {
    if (event.button !== 0 || event.target.closest(".overview")) return;
    this.stage.focus({ preventScroll: true });
    this.grip = { x, y, view: { ...this.view }, target: event.target, moved: false };
  }

  #drag(event, x, y) {
    if (!this.grip) {
      this.#hover(event, x, y);
      return;
    }
    const [dx, dy] = [x - this.grip.x, y - this.grip.y];
    if (!this.grip.moved && Math.hypot(dx, dy) < 4) return;
    if (!this.grip.moved) this.stage.setPointerCapture(event.pointerId);
    this.grip.moved = true;
    this.tip.hidden = true;
    this.view.x = this.grip.view.x + dx;
    this.view.y = this.grip.view.y + dy;
    this.move();
  }

  #release() {
    const { grip } = this;
    this.grip = null;
    if (!grip || grip.moved) return;
    const part = (name) => grip.target.closest?.(name);
    const box = part(".box")?.box;
    if (part(".cell")) {
      const member = part(".cell").box;
      this.turn(member.parent, member.parent.children.indexOf(member));
    } else if (part(".turn")) {
      const { box: stack } = part(".turn");
      this.turn(stack, stack.at + Number(part(".turn").dataset.by));
    } else if (part(".toggle")) this.toggle(box);
    else this.choose(box && box !== this.boxes.root ? box : null, { still: true });
  }

  #hover(event, x, y) {
    const box = event.target.closest?.(".box")?.box;
    if (!box || this.boxes.isOpen(box)) {
      this.tip.hidden = true;
      return;
    }
    if (this.tip.box !== box || this.tip.hidden) {
      this.tip.box = box;
      this.tip.replaceChildren(make("b", {}, titleOf(box)), listed(factsOf(box, this.data, this.boxes.root)));
    }
    placeTip(this.tip, this.stage, x, y);
  }

  #key(event) {
    const pan = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const box = this.chosen ? this.boxes.shown(this.chosen) : this.boxes.content(this.boxes.root)[0];
    const acts = {
      ArrowRight: () => this.#inside(box), ArrowLeft: () => this.#outside(box), Enter: () => this.toggle(box),
      "+": () => this.zoom(1.35), "=": () => this.zoom(1.35), "-": () => this.zoom(1 / 1.35), f: () => this.fit(), "/": () => this.search.focus(),
      n: () => this.#step(1), N: () => this.#step(-1), Escape: () => this.choose(null),
      ",": () => this.#turnBy(box, -1), ".": () => this.#turnBy(box, 1),
    };
    const act = pan ? () => this.#walk(box, pan) : acts[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }

  // The next box above or below: along an edge where there is one, else by order.
  #walk(box, by) {
    if (!this.chosen) {
      this.choose(box);
      return;
    }
    const [from, to] = by > 0 ? ["source", "target"] : ["target", "source"];
    const nodes = new Map(this.picture.boxes.map((each) => [each.id, each]));
    const next = this.picture.edges.filter((each) => each[from] === box.id).map((each) => nodes.get(each[to])).filter(Boolean);
    next.sort((first, second) => Math.abs(first.x + first.width / 2 - box.x - box.width / 2) - Math.abs(second.x + second.width / 2 - box.x - box.width / 2));
    const mates = this.picture.boxes.filter((each) => this.#owner(each) === this.#owner(box));
    const found = next[0] ?? mates[mates.indexOf(box) + by];
    if (found) this.choose(found);
  }

  #owner(box) {
    return this.picture.boxes.find((each) => this.boxes.isOpen(each) && this.boxes.content(each).includes(box));
  }

  #inside(box) {
    if (box.kind === "operator" || box.single) return;
    if (!this.boxes.isOpen(box)) this.toggle(box);
    else this.choose(this.boxes.content(box)[0]);
  }

  #outside(box) {
    if (this.boxes.isOpen(box) && box !== this.boxes.root) this.toggle(box);
    else if (this.#owner(box) && this.#owner(box) !== this.boxes.root) this.choose(this.#owner(box));
  }

  #turnBy(box, by) {
    let stack = box;
    while (stack && stack.kind !== "stack") stack = stack.parent;
    if (stack) this.turn(stack, stack.at + by);
  }
}

export default mounted(ModelGraph);
