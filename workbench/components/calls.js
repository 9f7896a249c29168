// The merged calls of a trace as the flame graph's file holds them, and the same bottom up.

class Calls {
  constructor(file) {
    this.names = file.names;
    this.categories = file.categories;
    this.kindOf = file.category;
    this.trees = {};
    for (const [side, each] of Object.entries(file.trees)) this.trees[side] = this.#tree(each);
  }

  #tree(columns) {
    const frames = columns.parent.map((parent, index) => ({
      name: columns.name[index], parent, total: columns.total_ns[index], self: columns.self_ns[index],
      calls: columns.calls[index], folded: columns.folded[index], children: [],
    }));
    const root = { name: -1, parent: null, total: 0, self: 0, calls: 0, folded: 0, children: [], depth: -1 };
    for (const each of frames) {
      each.parent = each.parent < 0 ? root : frames[each.parent];
      each.parent.children.push(each);
    }
    return this.#finished(root, columns.frames);
  }

  // Sizes add up, the largest child stands first, every frame knows its depth.
  #finished(root, frames) {
    root.total = root.children.reduce((sum, each) => sum + each.total, 0);
    const waiting = [root];
    let deepest = 0;
    let shown = 0;
    let folded = 0;
    while (waiting.length) {
      const each = waiting.pop();
      each.children.sort((one, other) => (one.folded ? 1 : 0) - (other.folded ? 1 : 0) || other.total - one.total);
      for (const child of each.children) {
        child.depth = each.depth + 1;
        deepest = Math.max(deepest, child.depth);
        shown++;
        folded += child.folded;
        waiting.push(child);
      }
    }
    return { root, deepest, shown, folded, frames };
  }

  // The same time by what spent it: below each name stand its callers, as they share it.
  inverted(side) {
    const cached = `${side} inverted`;
    if (this.trees[cached]) return this.trees[cached];
    const root = { name: -1, parent: null, total: 0, self: 0, calls: 0, folded: 0, children: [], depth: -1, byName: new Map() };
    let frames = 0;
    const walk = (frame) => {
      for (const each of frame.children) walk(each);
      if (!(frame.self > 0)) return;
      let place = root;
      for (let above = frame; above.parent; above = above.parent) {
        let next = place.byName.get(above.name);
        if (!next) {
          next = { name: above.name, parent: place, total: 0, self: 0, calls: 0, folded: 0, children: [], byName: new Map() };
          place.byName.set(above.name, next);
          place.children.push(next);
          frames++;
        }
        next.total += frame.self;
        next.calls += frame.calls;
        next.folded += above === frame ? frame.folded : 0;
        place = next;
      }
      place.self += frame.self;
    };
    walk(this.trees[side].root);
    this.trees[cached] = this.#finished(root, frames);
    return this.trees[cached];
  }
}

// The path of names from the outermost frame to one.
function pathOf(frame) {
  const path = [];
  for (let each = frame; each.parent; each = each.parent) path.unshift(each);
  return path;
}
