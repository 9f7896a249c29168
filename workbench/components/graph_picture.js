// Draws the model graph: boxes, edges, colours, legend.

const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

class GraphPicture {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.boxes = new Boxes(data);
    this.measures = measuresOf(data);
    this.measure = this.measures[0];
    this.pen = document.createElement("canvas").getContext("2d");
    this.layout = new Layout(this.boxes, (box) => this.#width(box));
    this.view = { x: 0, y: 0, scale: 1 };
    this.shapes = false;
    this.chosen = null;
    this.matches = [];
    this.svg = shape("svg", { class: "graph", width: "100%", height: "100%" });
    this.stage = make("div", { className: "stage", tabIndex: 0 }, this.svg);
    this.legend = make("div", { className: "legend" });
  }

  #width(box) {
    this.pen.font = "600 13px sans-serif";
    const title = this.pen.measureText(titleOf(box)).width;
    this.pen.font = "11.5px sans-serif";
    return Math.max(title, this.pen.measureText(subtitle(box, this.measure)).width) + (box.kind === "operator" || box.single ? 24 : 46);
  }

  // Lays out what is open and draws it; `keep` stays where it is on the screen.
  draw(keep = null) {
    const before = keep && keep.x !== undefined ? [keep.x, keep.y] : null;
    this.picture = this.layout.run({ shapes: this.shapes });
    if (before) {
      this.view.x += (before[0] - keep.x) * this.view.scale;
      this.view.y += (before[1] - keep.y) * this.view.scale;
    }
    this.theme = themeOf(this.root);
    this.leaves = this.picture.boxes.filter((each) => !this.boxes.isOpen(each));
    this.most = this.measure.amount ? Math.max(...this.leaves.map((each) => this.measure.amount(each) ?? 0), 0) : 0;
    this.paint();
    this.#legend();
  }

  paint() {
    const { boxes, edges } = this.picture;
    this.svg.style.setProperty("--ink", css(this.theme.text));
    this.svg.style.setProperty("--muted", css(this.theme.muted));
    const room = this.#room();
    const near = (left, top, right, bottom) => !room || (right > room[0] && left < room[2] && bottom > room[1] && top < room[3]);
    const lines = shape("g", { class: "edges" });
    const labels = shape("g", { class: "labels" });
    const frames = shape("g");
    const tiles = shape("g");
    for (const box of boxes) {
      if (!near(box.x, box.y, box.x + box.width, box.y + box.height)) continue;
      (this.boxes.isOpen(box) ? frames : tiles).append(this.#boxShape(box));
    }
    const touched = this.chosen && this.boxes.shown(this.chosen).id;
    for (const edge of edges) {
      const ys = edge.points.map((each) => each[1]);
      const xs = edge.points.map((each) => each[0]);
      if (!near(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys))) continue;
      const marked = edge.source === touched || edge.target === touched;
      const line = shape("path", { d: curve(edge.points), class: marked ? "edge marked" : "edge", "marker-end": `url(#${marked ? "marked" : "arrow"})` });
      line.append(shape("title", {}, shapesText(edge.shapes) || "a tensor"));
      lines.append(line);
      if (edge.label && this.shapes) {
        labels.append(shape("text", { x: edge.label[0], y: edge.label[1] + 4, "text-anchor": "middle" }, shapesText(edge.shapes)));
      }
    }
    const arrow = (id, colour) => shape("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" },
      shape("path", { d: "M0.5,0.8L7,4L0.5,7.2z", fill: colour }));
    const dots = shape("pattern", { id: "unknown", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      shape("rect", { width: 7, height: 7, fill: css(this.theme.second) }), shape("rect", { width: 2, height: 7, fill: css(this.theme.border) }));
    this.plane = shape("g", {}, frames, lines, labels, tiles);
    this.svg.replaceChildren(shape("defs", {}, arrow("arrow", css(this.theme.muted)), arrow("marked", css(this.theme.primary)), dots), this.plane);
    this.move();
  }

  // Puts the drawing where the view says.
  move() {
    const { x, y, scale } = this.view;
    this.plane.setAttribute("transform", `translate(${x},${y}) scale(${scale})`);
    this.svg.classList.toggle("far", scale < 0.32);
  }

  // Thousands of boxes are drawn only around what is looked at.
  #room() {
    if (this.picture.boxes.length < 700 || !this.stage.clientWidth) return null;
    const { x, y, scale } = this.view;
    const [width, height] = [this.stage.clientWidth / scale, this.stage.clientHeight / scale];
    const [left, top] = [-x / scale, -y / scale];
    this.drawn = { x, y, scale };
    return [left - width / 2, top - height / 2, left + 1.5 * width, top + 1.5 * height];
  }

  #boxShape(box) {
    const open = this.boxes.isOpen(box);
    const chosen = this.chosen && this.boxes.shown(this.chosen) === box;
    const classes = ["box", box.kind, open ? "open" : "", chosen ? "chosen" : "", box.role ?? "",
      this.matches.includes(box) ? "match" : "", this.matches.length && !open && !this.matches.some((each) => this.boxes.shown(each) === box) ? "dim" : ""];
    const group = shape("g", { class: classes.filter(Boolean).join(" "), transform: `translate(${box.x.toFixed(1)},${box.y.toFixed(1)})` });
    group.box = box;
    group.dataset.name = box.name;
    group.dataset.label = box.label;
    const fill = open ? css(mixed(this.theme.background, this.theme.second, box.parent ? 0.75 : 0)) : this.#fill(box);
    const isPlain = fill.startsWith("url");
    const ink = open || isPlain ? css(this.theme.text) : inkOn(parseColour(fill.replaceAll(" ", ",").replace(",/,1", ""), this.theme.background));
    const round = box.role === "input" || box.role === "output" ? box.height / 2 : box.kind === "operator" ? 7 : 10;
    if (box.kind === "stack" && !open) {
      for (const by of [8, 4]) group.append(shape("rect", { class: "under", x: by, y: -by, width: box.width - by, height: 14, rx: round, fill: css(this.theme.second) }));
    }
    group.append(shape("rect", { class: "body", width: box.width, height: box.height, rx: round, fill }));
    const canOpen = box.kind !== "operator" && !box.single;
    const left = canOpen ? 30 : 12;
    const cut = box.width - left - 10;
    group.append(
      shape("text", { class: "title", x: left, y: 17, fill: ink }, this.#cut(titleOf(box), cut, "600 13px")),
      shape("text", { class: "words", x: left, y: 31, fill: ink }, this.#cut(subtitle(box, this.measure), cut, "11.5px")),
    );
    if (canOpen && box !== this.boxes.root) {
      const toggle = shape("g", { class: "toggle", role: "button" },
        shape("rect", { x: 5, y: 7, width: 20, height: 20, rx: 6, fill: "transparent" }),
        shape("path", { d: open ? "M10,15l5,5l5,-5" : "M13,12l5,5l-5,5", stroke: ink }));
      toggle.setAttribute("aria-label", `${open ? "Close" : "Open"} ${box.label}`);
      group.append(toggle);
    }
    if (box.kind === "stack") this.#addStrip(group, box, open, ink);
    return group;
  }

  // One cell for each of the equal blocks, coloured like a box: click one to look into it.
  #addStrip(group, box, open, ink) {
    const y = open ? 38 : box.height - 11;
    const wide = Math.min(22, (box.width - 24) / box.members);
    box.children.forEach((each, index) => {
      const cell = shape("rect", {
        class: open && index === box.at ? "cell now" : "cell", x: 12 + index * wide, y, width: Math.max(1, wide - 2), height: 7, rx: 2,
        fill: this.#fill(each, Math.max(...box.children.map((one) => (this.measure.amount ? this.measure.amount(one) ?? 0 : 0)))),
      });
      cell.append(shape("title", {}, `${each.name}: ${amountText(this.measure, each) || each.type}`));
      cell.box = each;
      group.append(cell);
    });
    if (!open) return;
    const member = box.children[box.at];
    const words = shape("text", { class: "words", x: box.width - 62, y: 21, "text-anchor": "end", fill: ink }, `${member.label}: ${box.at + 1} of ${box.members}`);
    const turn = (by, x, text, title) => {
      const made = shape("g", { class: "turn", role: "button", "data-by": by },
        shape("rect", { x, y: 7, width: 22, height: 20, rx: 6 }), shape("text", { x: x + 11, y: 22, "text-anchor": "middle", fill: ink }, text));
      made.setAttribute("aria-label", title);
      made.box = box;
      return made;
    };
    group.append(words, turn(-1, box.width - 56, "‹", "Previous block"), turn(1, box.width - 31, "›", "Next block"));
  }

  #fill(box, most = this.most) {
    const theme = this.theme;
    if (box.role === "input" || box.role === "output") return css(mixed(theme.background, theme.primary, 0.12));
    if (this.measure.id === "dtype") {
      const name = [...box.dtypes].sort((first, second) => second[1] - first[1])[0]?.[0];
      return css(name ? dtypeFill(theme, name, this.#dtypes()) : theme.second);
    }
    if (!this.measure.amount || box.role === "view") return css(theme.second);
    if (this.measure.id === "flops" && !box.known && box.count) return "url(#unknown)";
    const steps = SCALES[theme.dark ? "dark" : "light"].map((each) => parseColour(each));
    const place = most > 0 ? Math.sqrt(Math.min(1, (this.measure.amount(box) ?? 0) / most)) * (steps.length - 1) : 0;
    const low = Math.min(steps.length - 2, Math.floor(place));
    return css(mixed(steps[low], steps[low + 1], place - low));
  }

  #dtypes() {
    return [...this.boxes.root.dtypes.keys()].sort();
  }

  #cut(text, room, font) {
    this.pen.font = `${font} sans-serif`;
    if (this.pen.measureText(text).width <= room) return text;
    let kept = text.length - 1;
    while (kept > 1 && this.pen.measureText(`${text.slice(0, kept)}…`).width > room) kept -= 1;
    return `${text.slice(0, kept)}…`;
  }

  #legend() {
    const parts = [];
    if (this.measure.amount) {
      parts.push(...rampLegend(this.theme, this.measure.label, this.measure.words(this.most), " (the largest closed box)"));
      if (this.measure.id === "flops") {
        parts.push(make("i", { className: "striped" }), make("span", { className: "note" }, "does arithmetic, has no formula"));
      }
    } else if (this.measure.id === "dtype") parts.push(...dtypeLegend(this.theme, this.#dtypes()));
    this.legend.replaceChildren(...parts);
  }
}
