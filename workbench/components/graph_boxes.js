// The model as boxes in boxes: modules, runs of equal blocks, operators; and what flows on each level.

// From how many loose operators on a level of modules on they are bundled, and how many at least.
const [MANY_LOOSE, SHORTEST_BUNDLE] = [8, 4];

class Boxes {
  constructor(data) {
    this.data = data;
    this.all = [];
    this.modules = data.modules.map((each, index) => this.#box("group", {
      label: index ? shortName(each.name, data.modules[each.parent]?.name ?? "") : data.title,
      name: each.name, type: each.type, block: each.block, call: each.call, parent: null,
    }));
    this.root = this.modules[0];
    this.root.open = true;
    data.modules.forEach((each, index) => {
      if (index) this.#put(this.modules[index], this.modules[each.parent]);
    });
    this.operators = data.nodes.map((each) => this.#operator(each));
    this.#drop((box) => box.kind === "group" && !box.count);
    for (const box of [...this.modules]) if (box.children.length) this.#stack(box);
    for (const box of this.modules) this.#bundle(box);
    this.#simplify();
    this.#flow();
  }

  // The boxes around an operator or a box, from the whole model inwards, itself last.
  path(box) {
    const found = [];
    for (let each = box; each; each = each.parent) found.push(each);
    return found.reverse();
  }

  // What is drawn for a box that may be hidden: itself, or the innermost box around it that is.
  shown(box) {
    const path = this.path(box);
    for (let index = 0; index < path.length - 1; index += 1) {
      const [each, next] = [path[index], path[index + 1]];
      if (each.single) return each;
      if (each.parent?.kind === "stack") continue; // an open run shows what its member holds
      if (!this.isOpen(each)) return each;
      if (each.kind === "stack" && (each.children[each.at] !== next || (next === box && !next.single))) return each;
    }
    return box;
  }

  isOpen(box) {
    return box.kind === "stack" ? box.open : box.kind === "group" && box.open && !box.single;
  }

  // Opens everything around a box, and turns runs of equal blocks to the member that holds it.
  reveal(box) {
    const path = this.path(box);
    path.slice(0, -1).forEach((each, index) => {
      each.open = true;
      if (each.kind === "stack") each.at = each.children.indexOf(path[index + 1]);
    });
  }

  // A first view that tells most in little room: the level that holds nearly all is opened at once.
  openFirst(most = 22) {
    const seen = () => {
      let count = 0;
      const walk = (box) => this.content(box).forEach((each) => { count += 1; if (this.isOpen(each)) walk(each); });
      walk(this.root);
      return count;
    };
    let next = this.root;
    while (next) {
      next.open = true;
      const inside = this.content(next).filter((each) => each.kind !== "operator" && !each.single);
      if (inside.length === 0) return;
      const largest = inside.reduce((best, each) => (each.count > best.count ? each : best));
      largest.open = true;
      if (seen() > most) {
        largest.open = false;
        return;
      }
      next = largest;
    }
  }

  // The boxes that an open box shows.
  content(box) {
    if (box.kind !== "stack") return box.children;
    const member = box.children[box.at];
    return member.children.length && !member.single ? member.children : [member];
  }

  // The level whose edges an open box shows.
  level(box) {
    return box.kind === "stack" ? box.children[box.at] : box;
  }

  closeAll() {
    for (const each of this.all) each.open = each === this.root;
  }

  openAll() {
    for (const each of this.all) each.open = each.kind !== "operator";
  }

  #box(kind, values) {
    const box = {
      kind, id: this.all.length, children: [], edges: new Map(), open: false, at: 0, count: 0, single: false,
      flops: 0, elementwise: 0, known: 0, bytes: 0, times: this.data.phases.map(() => 0), dtypes: new Map(), first: Infinity, ...values,
    };
    this.all.push(box);
    return box;
  }

  #operator(told) {
    const owner = this.modules[told.module];
    const box = this.#box("operator", {
      label: told.operator.replace(/^aten::/, ""), type: told.operator, role: told.kind, shape: told.shape, dtype: told.dtype,
      name: owner.name, parent: owner, order: this.all.length, folded: told.folded,
    });
    owner.children.push(box);
    box.count = told.kind === "folded" ? told.folded : 1;
    this.#sum(box, told);
    const isEnd = told.kind === "input" || told.kind === "output";
    for (let each = owner; each; each = each.parent) {
      each.first = Math.min(each.first, box.order);
      if (isEnd) continue;
      each.count += box.count;
      this.#sum(each, told);
    }
    box.first = box.order;
    return box;
  }

  #sum(box, told) {
    if (told.flops !== null) {
      box.flops += told.flops;
      box.known += 1;
    }
    box.elementwise += told.elementwise;
    box.bytes += told.bytes;
    told.times.forEach((each, index) => {
      if (each !== null && box.times[index] !== null) box.times[index] += each;
    });
    if (told.dtype && told.kind !== "view") box.dtypes.set(told.dtype, (box.dtypes.get(told.dtype) ?? 0) + 1);
  }

  #put(box, parent) {
    box.parent = parent;
    parent.children.push(box);
  }

  #drop(unwanted) {
    for (const each of this.all) each.children = each.children.filter((child) => !unwanted(child));
  }

  // Neighbours that hold the same operators on the same shapes become one box.
  #stack(owner) {
    owner.children.sort((first, second) => first.first - second.first);
    const groups = owner.children.filter((each) => each.kind === "group");
    const runs = [];
    for (const each of groups) {
      const last = runs.at(-1);
      if (last && follows(last.at(-1), each)) last.push(each);
      else runs.push([each]);
    }
    for (const run of runs.filter((each) => each.length > 1)) {
      const stack = this.#box("stack", {
        label: `${run[0].label} … ${tailNumber(run.at(-1))}`, type: run[0].type, name: run[0].name, first: run[0].first,
        parent: owner, members: run.length,
      });
      this.#wrap(owner, stack, run);
    }
  }

  // Operators between module calls (masks, positions) become one box where they would hide the modules.
  #bundle(owner) {
    const loose = (each) => each.kind === "operator" && each.role !== "input" && each.role !== "output";
    const isMixed = owner.children.some((each) => each.kind !== "operator");
    if (!isMixed || owner.children.filter(loose).length < MANY_LOOSE) return;
    const runs = [[]];
    for (const each of owner.children) {
      if (loose(each)) runs.at(-1).push(each);
      else runs.push([]);
    }
    for (const run of runs.filter((each) => each.length >= SHORTEST_BUNDLE)) {
      const names = [...new Set(run.map((each) => each.label))];
      const told = names.length > 2 ? `${names.slice(0, 2).join(", ")} …` : names.join(", ");
      this.#wrap(owner, this.#box("group", {
        label: `${run.length} operators`, type: told, name: owner.name, first: run[0].first, parent: owner, isBundle: true,
      }), run);
    }
  }

  // Puts a box around some children of another one.
  #wrap(owner, wrapper, run) {
    for (const each of run) {
      wrapper.count += each.count;
      wrapper.flops += each.flops;
      wrapper.known += each.known;
      wrapper.elementwise += each.elementwise;
      wrapper.bytes += each.bytes;
      each.times.forEach((time, index) => { wrapper.times[index] += time; });
      for (const [dtype, count] of each.dtypes) wrapper.dtypes.set(dtype, (wrapper.dtypes.get(dtype) ?? 0) + count);
      each.parent = wrapper;
      wrapper.children.push(each);
    }
    const places = new Set(run);
    owner.children = owner.children.filter((each) => !places.has(each));
    owner.children.push(wrapper);
    owner.children.sort((first, second) => first.first - second.first);
  }

  // A module that is one operator needs no opening: the operator is told on the module.
  #simplify() {
    for (const box of this.modules) {
      if (box === this.root || box.children.length !== 1 || box.children[0].kind !== "operator") continue;
      box.single = true;
      box.shape = box.children[0].shape;
      box.operator = box.children[0].type;
    }
  }

  // Each edge belongs to the innermost level that holds both ends; below it, to ports of the level.
  #flow() {
    for (const [source, target, shape] of this.data.edges) {
      const from = this.path(this.operators[source]);
      const to = this.path(this.operators[target]);
      let at = 0;
      while (from[at] === to[at]) at += 1;
      if (from[at - 1].kind !== "stack") add(from[at - 1], from[at].id, to[at].id, shape);
      for (let below = at; below < from.length - 1; below += 1) add(from[below], from[below + 1].id, "out", shape);
      for (let below = at; below < to.length - 1; below += 1) add(to[below], "in", to[below + 1].id, shape);
    }

    function add(level, source, target, shape) {
      const key = `${source}>${target}`;
      const edge = level.edges.get(key);
      if (edge) edge.shapes.add(shape);
      else level.edges.set(key, { source, target, shapes: new Set([shape]) });
    }
  }
}

function shortName(name, owner) {
  return owner && name.startsWith(`${owner}.`) ? name.slice(owner.length + 1) : name;
}

function tailNumber(box) {
  return /(\d+)\D*$/.exec(box.label)?.[1] ?? box.label;
}

// Whether a block continues a run: same content, and the next number or the next call.
function follows(before, box) {
  if (!box.block || before.block !== box.block || before.type !== box.type) return false;
  if (before.name === box.name) return box.call === before.call + 1;
  const [first, second] = [before, box].map((each) => /^(.*?)(\d+)$/.exec(each.label));
  return Boolean(first && second && first[1] === second[1] && Number(second[2]) === Number(first[2]) + 1);
}
