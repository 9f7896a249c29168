// Places boxes: each level in layers from top to bottom, inner levels first.

const PLACE = { row: 40, rank: 34, gap: 18, pad: 18, head: 44, most: 140, wide: 264, narrow: 92, strip: 12 };

class Layout {
  constructor(boxes, measure) {
    this.boxes = boxes;
    this.measure = measure;
    this.known = new Map();
  }

  // Sets x, y, width and height of every box that is shown, and gives them in the order to draw.
  run(options) {
    this.options = options;
    this.#size(this.boxes.root);
    const found = { boxes: [], edges: [] };
    this.#put(this.boxes.root, 0, 0, found);
    return found;
  }

  #size(box) {
    if (!this.boxes.isOpen(box)) {
      box.width = Math.min(PLACE.wide, Math.max(PLACE.narrow, this.measure(box)));
      box.height = PLACE.row + (box.kind === "stack" ? PLACE.strip : 0);
      return;
    }
    const inside = this.boxes.content(box);
    for (const each of inside) this.#size(each);
    const level = this.boxes.level(box);
    const key = `${this.options.shapes} ${inside.map((each) => `${each.id}:${each.width}x${each.height}`).join()}`;
    const before = this.known.get(level);
    const placed = before?.key === key ? before : { key, ...arranged(inside, [...level.edges.values()], this.options) };
    this.known.set(level, placed);
    box.placed = placed;
    const head = PLACE.head + (box.kind === "stack" ? PLACE.strip : 0);
    box.width = Math.max(placed.width + 2 * PLACE.pad, this.measure(box) + 60);
    box.height = placed.height + head + PLACE.pad;
  }

  #put(box, x, y, found) {
    box.x = x;
    box.y = y;
    found.boxes.push(box);
    if (!this.boxes.isOpen(box)) return;
    const left = x + (box.width - box.placed.width) / 2;
    const top = y + PLACE.head + (box.kind === "stack" ? PLACE.strip : 0);
    for (const each of this.boxes.content(box)) {
      const [cx, cy] = box.placed.centres.get(each.id);
      this.#put(each, left + cx - each.width / 2, top + cy - each.height / 2, found);
    }
    for (const edge of box.placed.edges) {
      const points = edge.points.map(([px, py]) => [left + px, top + py]);
      if (edge.source === "in") points[0] = [points[0][0], y + PLACE.head + (box.kind === "stack" ? PLACE.strip : 0) - 7];
      found.edges.push({ ...edge, points, label: edge.label && [left + edge.label[0], top + edge.label[1]], level: box });
    }
  }
}

// Centres of boxes and points of edges on one level, from its upper left corner on.
function arranged(inside, edges, options) {
  const names = new Set(inside.map((each) => each.id));
  const shown = edges.filter(({ source, target }) =>
    source !== target && (names.has(source) || source === "in") && (names.has(target) || target === "out"));
  const ports = ["in", "out"].filter((port) => shown.some((each) => each.source === port || each.target === port));
  return inside.length > PLACE.most ? layered(inside, shown, ports) : byDagre(inside, shown, ports, options);
}

function byDagre(inside, edges, ports, options) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: PLACE.gap, edgesep: 10, ranksep: options.shapes ? 22 : PLACE.rank, marginx: 0, marginy: 0 });
  for (const each of inside) graph.setNode(String(each.id), { width: each.width, height: each.height });
  for (const port of ports) graph.setNode(port, { width: 12, height: 1 });
  for (const edge of edges) {
    const label = options.shapes ? shapesText(edge.shapes) : "";
    const room = label ? { width: 6.2 * label.length + 10, height: 14, labelpos: "c" } : {};
    graph.setEdge(String(edge.source), String(edge.target), { edge, ...room });
  }
  dagre.layout(graph);
  const { width, height } = graph.graph();
  return {
    width, height,
    centres: new Map(inside.map((each) => {
      const place = graph.node(String(each.id));
      return [each.id, [place.x, place.y]];
    })),
    edges: graph.edges().map((each) => {
      const told = graph.edge(each);
      return { ...told.edge, points: told.points.map(({ x, y }) => [x, y]), label: told.x === undefined ? null : [told.x, told.y] };
    }),
  };
}

// Hundreds of boxes on one level: layers by the longest way, ordered by the mean of what feeds them.
function layered(inside, edges, ports) {
  const order = new Map(inside.map((each, index) => [each.id, index]));
  const feeds = new Map(inside.map((each) => [each.id, []]));
  for (const { source, target } of edges) {
    if (order.get(source) < order.get(target)) feeds.get(target).push(source);
  }
  const layer = new Map();
  for (const each of inside) layer.set(each.id, Math.max(-1, ...feeds.get(each.id).map((one) => layer.get(one))) + 1);
  const rows = [];
  for (const each of inside) (rows[layer.get(each.id)] ??= []).push(each);
  const centres = new Map();
  const wide = (row) => row.reduce((sum, each) => sum + each.width + PLACE.gap, -PLACE.gap);
  const width = Math.max(...rows.map(wide));
  let y = PLACE.rank;
  for (const row of rows) {
    const mean = new Map(row.map((each) => {
      const places = feeds.get(each.id).map((one) => centres.get(one)[0]);
      return [each.id, places.length ? places.reduce((sum, one) => sum + one, 0) / places.length : width / 2];
    }));
    row.sort((first, second) => mean.get(first.id) - mean.get(second.id));
    const tall = Math.max(...row.map((each) => each.height));
    let x = (width - wide(row)) / 2;
    for (const each of row) {
      centres.set(each.id, [x + each.width / 2, y + tall / 2]);
      x += each.width + PLACE.gap;
    }
    y += tall + PLACE.rank;
  }
  const boxOf = new Map(inside.map((each) => [each.id, each]));
  const top = { in: [width / 2, 0], out: [width / 2, y] };
  const point = (id, side) => (top[id] ? top[id] : [centres.get(id)[0], centres.get(id)[1] + (side * boxOf.get(id).height) / 2]);
  return {
    width, height: ports.includes("out") ? y : y - PLACE.rank, centres,
    edges: edges.map((each) => ({ ...each, points: [point(each.source, 1), point(each.target, -1)], label: null })),
  };
}

function shapesText(shapes) {
  const [first, ...more] = [...shapes].filter(Boolean);
  return first ? (more.length ? `${first} +${more.length}` : first) : "";
}

// A path through points, rounded.
function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first[0].toFixed(1)},${first[1].toFixed(1)}`;
  if (rest.length === 1) {
    const [end] = rest;
    const middle = (first[1] + end[1]) / 2;
    return `${path}C${first[0]},${middle} ${end[0]},${middle} ${end[0]},${end[1]}`;
  }
  for (let at = 0; at < rest.length - 1; at += 1) {
    const [here, next] = [rest[at], rest[at + 1]];
    const end = at === rest.length - 2 ? next : [(here[0] + next[0]) / 2, (here[1] + next[1]) / 2];
    path += `Q${here[0].toFixed(1)},${here[1].toFixed(1)} ${end[0].toFixed(1)},${end[1].toFixed(1)}`;
  }
  return path;
}
