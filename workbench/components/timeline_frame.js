// Around the events: names, ruler, overview, range, outlines, and arrows to what was launched.

class TimelineFrame extends TimelineLanes {
  draw() {
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
        this.lane(lane, Math.max(0, from), Math.min(this.plotHeight, to), place.y + depth * LANE, marked);
      });
    }
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.putImageData(this.image, Math.round(this.gutter * this.ratio), Math.round(this.top * this.ratio));
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.words();
    this.names();
    this.marks();
    this.ruler();
    this.minimap();
    this.note(this.frames, performance.now() - began);
  }

  // The range, the chosen event, the one under the pointer, and what links them to devices.
  marks() {
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
    if (this.hover >= 0 && this.hover !== this.row) this.outline(this.hover, css(theme.text, 0.75), 1);
    if (this.row >= 0) this.outline(this.row, css(theme.text), 2);
    const linked = this.hover >= 0 && this.events.launcherOf(this.hover) >= 0 ? this.hover : this.row;
    if (linked >= 0) this.arrows(linked);
    context.restore();
  }

  outline(row, colour, thick) {
    const place = this.placeOf(row);
    if (!place) return;
    const left = Math.max(this.gutter - 4, this.xOf(this.events.start[row]));
    const right = Math.min(this.width + 4, this.xOf(this.events.end(row)));
    this.context.strokeStyle = colour;
    this.context.lineWidth = thick;
    this.context.strokeRect(left, place.y + 0.5, Math.max(2, right - left - 1), LANE - 2);
  }

  arrows(row) {
    const by = this.events.launcherOf(row);
    if (by >= 0) {
      this.arrow(by, row);
      return;
    }
    if (row !== this.row || !this.links) return;
    for (const each of this.links.rows) this.arrow(this.events.launcherOf(each), each);
  }

  arrow(from, to) {
    const [one, other] = [this.placeOf(from), this.placeOf(to)];
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

  names() {
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
      if (place.process !== undefined) this.heading(place.process, y);
      else this.trackName(place, y);
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

  heading(words, y) {
    const { context, theme } = this;
    context.fillStyle = css(theme.second);
    context.fillRect(0, y, this.width, HEAD - 3);
    context.fillStyle = css(theme.text);
    context.font = `600 11.5px ${theme.font}`;
    context.textBaseline = "middle";
    context.fillText(words, 9, y + (HEAD - 3) / 2 + 0.5);
  }

  trackName(place, y) {
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

  ruler() {
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
      context.fillText(this.stamp(index * step, step), x + 4, top + RULER / 2 - 2);
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
  stamp(ns, step) {
    const [size, word] = step >= 1e8 ? [1e9, "s"] : step >= 1e5 ? [1e6, "ms"] : step >= 100 ? [1e3, "µs"] : [1, "ns"];
    const places = Math.max(0, Math.ceil(Math.log10(size / step)));
    return `${(ns / size).toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places })} ${word}`;
  }

  minimap() {
    const { context, theme } = this;
    const columns = Math.max(10, Math.floor(this.width - this.gutter));
    this.map ??= this.mapImage(columns);
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
  mapImage(columns) {
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
}
