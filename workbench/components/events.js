// The events of a trace as the timeline's file holds them, with what is asked of them.

const NO_ROW = 0xffffffff;

// The first place in [first, last) whose value is at least the one given.
function lowerBound(array, first, last, value) {
  while (first < last) {
    const middle = (first + last) >>> 1;
    if (array[middle] < value) first = middle + 1;
    else last = middle;
  }
  return first;
}

class Events {
  constructor(buffer) {
    const text = new TextDecoder();
    if (text.decode(new Uint8Array(buffer, 0, 8)) !== "MWTIMELN") throw new Error("it is no timeline");
    const length = new DataView(buffer).getUint32(8, true);
    const header = JSON.parse(text.decode(new Uint8Array(buffer, 12, length)));
    const kinds = { "<u4": Uint32Array, "<u2": Uint16Array };
    for (const [name, each] of Object.entries(header.arrays)) {
      this[name] = new kinds[each.type](buffer, each.offset, each.count);
    }
    Object.assign(this, {
      count: header.events, leftOut: header.left_out, unit: header.unit_ns, span: Math.max(1, header.span),
      names: header.names, categories: header.categories, modules: header.modules, shapes: header.shapes,
    });
    this.lanes = [];
    this.tracks = header.tracks.map((each, index) => {
      const lanes = each.lanes.map(([first, count], depth) => ({
        track: index, depth, first, last: first + count,
      }));
      this.lanes.push(...lanes);
      return { ...each, index, lanes };
    });
    this.#sum();
  }

  #sum() {
    const { count, duration, name } = this;
    this.sums = new Float64Array(count + 1);
    this.calls = new Uint32Array(this.names.length);
    this.totals = new Float64Array(this.names.length);
    this.longest = new Uint32Array(this.names.length);
    this.kindOf = new Uint16Array(this.names.length);
    let sum = 0;
    for (let row = 0; row < count; row++) {
      const long = duration[row];
      const code = name[row];
      sum += long;
      this.sums[row + 1] = sum;
      this.calls[code]++;
      this.totals[code] += long;
      if (long > this.longest[code]) this.longest[code] = long;
      this.kindOf[code] = this.category[row];
    }
  }

  nameOf(row) {
    return this.names[this.name[row]];
  }

  // Whether a name only marks a stretch of time: a step, or an annotation of the person.
  isMark(code) {
    return this.categories[this.kindOf[code]].endsWith("annotation") || this.names[code].startsWith("ProfilerStep#");
  }

  end(row) {
    return this.start[row] + this.duration[row];
  }

  laneOf(row) {
    let first = 0;
    let last = this.lanes.length;
    while (first < last) {
      const middle = (first + last) >>> 1;
      if (this.lanes[middle].last <= row) first = middle + 1;
      else last = middle;
    }
    return this.lanes[first];
  }

  // The event of a lane that runs at a time; -1 where none does.
  at(lane, time) {
    const row = lowerBound(this.start, lane.first, lane.last, time + 1e-9) - 1;
    return row >= lane.first && this.end(row) >= time ? row : -1;
  }

  // The event of a lane that is nearest to a time, at most `slack` away.
  near(lane, time, slack) {
    const found = this.at(lane, time);
    if (found >= 0) return found;
    const after = lowerBound(this.start, lane.first, lane.last, time);
    let best = -1;
    let distance = slack;
    for (const row of [after - 1, after]) {
      if (row < lane.first || row >= lane.last) continue;
      const away = row < after ? time - this.end(row) : this.start[row] - time;
      if (away <= distance) [best, distance] = [row, away];
    }
    return best;
  }

  parent(row) {
    const lane = this.laneOf(row);
    if (lane.depth === 0) return -1;
    return this.at(this.tracks[lane.track].lanes[lane.depth - 1], this.start[row]);
  }

  // The rows that lie directly in an event, as a stretch of the lane below.
  inside(row) {
    const lane = this.laneOf(row);
    const below = this.tracks[lane.track].lanes[lane.depth + 1];
    if (!below) return [0, 0];
    const first = lowerBound(this.start, below.first, below.last, this.start[row]);
    return [first, lowerBound(this.start, first, below.last, this.end(row))];
  }

  self(row) {
    const [first, last] = this.inside(row);
    return Math.max(0, this.duration[row] - (this.sums[last] - this.sums[first]));
  }

  launcherOf(row) {
    const found = this.launcher ? this.launcher[row] : NO_ROW;
    return found === NO_ROW ? -1 : found;
  }

  // What an event of the host launched, itself or through what it called; at most `most` rows.
  launched(row, most) {
    if (!this.launcher) return { rows: [], count: 0, total: 0 };
    const track = this.tracks[this.laneOf(row).track];
    if (track.device >= 0) return { rows: [], count: 0, total: 0 };
    const first = track.lanes[0].first;
    const last = track.lanes[track.lanes.length - 1].last;
    const [from, to] = [this.start[row], this.end(row)];
    const rows = [];
    let [count, total] = [0, 0];
    for (const device of this.tracks) {
      if (device.device < 0) continue;
      for (const lane of device.lanes) {
        for (let each = lane.first; each < lane.last; each++) {
          const by = this.launcher[each];
          if (by < first || by >= last || this.start[by] < from || this.start[by] >= to) continue;
          count++;
          total += this.duration[each];
          if (rows.length < most) rows.push(each);
        }
      }
    }
    return { rows, count, total };
  }

  // The rows for which a table over codes says 1, lane by lane.
  rowsOf(column, table) {
    const codes = this[column];
    let size = 0;
    for (let row = 0; row < this.count; row++) size += table[codes[row]];
    const rows = new Uint32Array(size);
    const bounds = new Uint32Array(this.lanes.length + 1);
    let next = 0;
    this.lanes.forEach((lane, index) => {
      for (let row = lane.first; row < lane.last; row++) {
        if (table[codes[row]]) rows[next++] = row;
      }
      bounds[index + 1] = next;
    });
    return { rows, bounds };
  }

  // The hit that starts next after (or before) a row, over all lanes; the first for row -1.
  nextOf(rows, row, forward) {
    const here = row < 0 ? (forward ? -1 : Infinity) : this.start[row];
    let best = -1;
    for (const each of rows) {
      const start = this.start[each];
      if (each === row) continue;
      const isAfter = forward ? start > here || (start === here && each > row)
        : start < here || (start === here && each < row);
      if (!isAfter) continue;
      if (best < 0 || (forward ? start < this.start[best] : start >= this.start[best])) best = each;
    }
    if (best < 0 && row >= 0 && rows.length) return this.nextOf(rows, -1, forward);
    return best;
  }

  // Self time and calls by name inside a stretch of time, for the host and for devices.
  within(from, to) {
    const self = [new Float64Array(this.names.length), new Float64Array(this.names.length)];
    const calls = [new Uint32Array(this.names.length), new Uint32Array(this.names.length)];
    const events = [0, 0];
    for (const track of this.tracks) {
      const side = track.device >= 0 ? 1 : 0;
      for (const lane of track.lanes) {
        const above = lane.depth ? track.lanes[lane.depth - 1] : null;
        let caller = above ? above.first : 0;
        let row = lowerBound(this.start, lane.first, lane.last, from);
        if (row > lane.first && this.end(row - 1) > from) row--;
        if (above && row < lane.last) {
          caller = Math.max(above.first, lowerBound(this.start, above.first, above.last, this.start[row] + 1) - 1);
        }
        for (; row < lane.last && this.start[row] < to; row++) {
          const inside = Math.min(to, this.end(row)) - Math.max(from, this.start[row]);
          const code = this.name[row];
          self[side][code] += inside;
          calls[side][code]++;
          events[side]++;
          if (!above) continue;
          while (caller + 1 < above.last && this.start[caller + 1] <= this.start[row]) caller++;
          self[side][this.name[caller]] -= inside;
        }
      }
    }
    return [0, 1].map((side) => ({
      events: events[side],
      rows: Array.from(self[side].keys())
        .filter((code) => calls[side][code])
        .map((code) => ({ code, self: Math.max(0, self[side][code]), calls: calls[side][code] }))
        .sort((one, other) => other.self - one.self),
    }));
  }

  // The share of each of `columns` equal stretches of time in which a lane is busy.
  busy(lane, columns) {
    const found = new Float32Array(columns);
    const wide = this.span / columns;
    for (let row = lane.first; row < lane.last; row++) {
      let from = this.start[row] / wide;
      const to = this.end(row) / wide;
      while (from < to) {
        const column = Math.min(columns - 1, Math.floor(from));
        const until = Math.min(to, column + 1);
        found[column] += until - from;
        if (until <= from) break;
        from = until;
      }
    }
    return found;
  }
}
